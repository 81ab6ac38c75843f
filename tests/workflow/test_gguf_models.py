"""Models in GGUF files: out of a package to their dimensions, and a run without an index."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from terse.models.gguf import convert_gguf
from tiny_gguf import index_of, tiny_llama, write_gguf, write_wheel
from tiny_workflow import ROOT, Workflow

pytestmark = pytest.mark.slow

INSIDE = "llm_tiny/tiny.gguf"
CONFIG = {
    "corpora": {"docs": {"source": "python-docs", "max_dataset_size": 60,
                         "validation_fraction": 0}},
    "models": {"tiny": {"package": "llm-tiny==1.0", "gguf": INSIDE}},
    "activations": {"corpus": "docs", "documents": "all", "ctx_len": 48, "save_fp": "float32",
                    "max_dataset_size": 6, "save_IDs_list": ["mle"]},
    "select": {"runs": [], "ids": ["tiny", "here"]},
}  # fmt: skip
IDS = ["results/ids/tiny.csv", "results/ids/here.csv", "results/tables/dimensions.html"]


@pytest.fixture
def overlay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write the config; the package's model is also a folder in `here`."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    file = write_gguf(tmp_path / "tiny.gguf", tiny_llama())
    (tmp_path / "here").mkdir()
    convert_gguf(file, tmp_path / "here")
    models = {**CONFIG["models"], "here": {"path": str(tmp_path / "here")}}
    models["tiny"]["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    path = tmp_path / "overlay.yaml"
    path.write_text(json.dumps(CONFIG | {"models": models}))
    return path


def index(folder: Path) -> str:
    content = {INSIDE: (folder / "tiny.gguf").read_bytes()}
    return index_of(folder / "index", write_wheel(folder, "llm-tiny", "1.0", content))


def test_from_a_package_to_dimensions(overlay: Path, tmp_path: Path) -> None:
    workflow = Workflow(tmp_path, overlay)
    workflow("-c2", *IDS, PIP_INDEX_URL=index(tmp_path))
    of_package, of_folder = (pd.read_csv(tmp_path / path) for path in IDS[:2])
    values = ["row", "module", "layer", "id", "loss_nats"]
    pd.testing.assert_frame_equal(of_package[values], of_folder[values])
    assert len(of_package) > 0
    record = json.loads((tmp_path / "cache/models/tiny/run.json").read_text())
    assert record["source"]["package"] == "llm-tiny==1.0"
    assert record["licence"] == "Apache-2.0"
    assert record["inputs"]["gguf"] == record["source"]["sha256"]
    measured = json.loads((tmp_path / "results/ids/tiny.run.json").read_text())["model"]
    assert measured["quantisation"] == "Q8_0"
    assert record["inputs"]["gguf"] in measured["weights"]
    summaries = pd.read_csv(tmp_path / "results/tables/dimensions.csv").set_index("model")
    assert set(summaries.loc["tiny", "quantisation"]) == {"Q8_0"}
    assert summaries.loc["here", "quantisation"].isna().all()


def test_a_run_without_an_index_makes_the_rest_and_says_what_is_missing(
    overlay: Path, tmp_path: Path
) -> None:
    place = tmp_path / "w"
    place.mkdir()
    for name in ("Snakefile", "rules", "workflow", "config", "profiles"):
        (place / name).symlink_to(ROOT / name)
    words = ["-c2", "--configfile", str(overlay), "--quiet", "progress"]
    command = [sys.executable, "-c", "import sys; from terse.cli import main; sys.exit(main())"]

    def run(url: str) -> str:
        done = subprocess.run(
            [*command, "run", *words], cwd=place, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, env={**os.environ, "PIP_INDEX_URL": url}, timeout=900,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        return done.stdout

    reason = "the Python index that pip uses has no wheel of llm-tiny"
    last = run(index_of(tmp_path / "empty")).splitlines()[-1]
    assert last.startswith(f"terse: left out: model tiny: {reason}")
    assert (place / "results/ids/here.csv").is_file()
    assert not (place / "results/ids/tiny.csv").exists()
    report = (place / "results/report.html").read_text()
    assert reason in report
    assert '"pretrained: here"' in report  # before "trained here" in the report's menu
    assert set(pd.read_csv(place / "results/tables/dimensions.csv")["model"]) == {"here"}
    assert "left out" not in run(index(tmp_path))  # with an index, the model joins the rest
    assert set(pd.read_csv(place / "results/tables/dimensions.csv")["model"]) == {"here", "tiny"}
    assert reason not in (place / "results/report.html").read_text()
