"""The scripts of the frontier, one after the other, on a tiny reader."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from script_chain import run_script
from terse.corpora.documents import write_documents
from terse.provenance import digest_file
from terse.settings.corpora import Corpus
from terse.training.method import Inputs
from tiny_frontier import bpe, reader_lm

WAYS = ("full", "none", "recency", "evict.knorm")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Documents and a model."""
    made = tmp_path_factory.mktemp("frontier")
    corpus = Corpus(source="python-docs", max_dataset_size=40, validation_fraction=0.3)
    write_documents(corpus, made / "d.parquet")
    write_documents(corpus.model_copy(update={"validation_fraction": 0.0}), made / "all.parquet")
    reader_lm().save_pretrained(made / "model")
    bpe().save_pretrained(made / "model")
    run_script(
        "cut_windows", windows={"n_windows": 4, "context_bytes": 200, "target_bytes": 40},
        documents_path=made / "d.parquet", windows_path=made / "w.parquet",
    )  # fmt: skip
    return made


def score(folder: Path, way: str, **changes: Any) -> pd.DataFrame:
    reader = {"run": None, "inputs": Inputs(), "loading": {}, "seed": 0, "device": "cpu"}
    options: dict[str, Any] = {
        "way": way, "model_folder": folder / "model", "reader": reader, "trained_on": [],
        "windows_path": folder / "w.parquet", "rates": [0.5, 0.25],
        "estimators": ["participation_ratio"],
        "table_path": folder / f"{way}.csv", "record_path": folder / f"{way}.json",
    }  # fmt: skip
    run_script("score_reading", **options | changes)
    return pd.read_csv(folder / f"{way}.csv")


def test_from_documents_to_the_picture(folder: Path, tmp_path: Path) -> None:
    for way in WAYS:
        score(folder, way)
    evictions = ["evict.tova", "evict.keydiff"]
    for part in range(2):
        run_script(
            "score_evictions", ways=evictions, part=part, n_parts=2, model_folder=folder / "model",
            loading={}, device="cpu", windows_path=folder / "w.parquet", rates=[0.5, 0.25],
            estimators=["participation_ratio"], seed=0, trained_on=[folder / "all.parquet"],
            table_path=folder / f"{part}.csv", record_path=folder / f"{part}.json",
        )  # fmt: skip
        assert json.loads((folder / f"{part}.json").read_text())["settings"]["part"] == part
    settings = json.loads((folder / "recency.json").read_text())["settings"]
    assert settings == {
        "way": "recency", "rates": [0.5, 0.25], "estimators": ["participation_ratio"], "seed": 0,
        "run": None,
    }  # fmt: skip
    run_script(
        "tabulate_frontier", ways=list(WAYS), paths=[folder / f"{w}.csv" for w in WAYS],
        evictions=[folder / f"{part}.csv" for part in range(2)], order=[*WAYS, *evictions],
        targets="t", seed=0, scores=tmp_path / "scores.csv", html=tmp_path / "f.html",
    )  # fmt: skip
    table = pd.read_csv(tmp_path / "scores.csv")
    assert table["way"].unique().tolist() == [*WAYS, *evictions]
    tova = table[(table["way"] == "evict.tova") & (table["measure"] == "bits_per_byte")]
    assert tova["flag"].str.contains("trained on").all()
    measured = table[table["measure"] == "participation_ratio_last"].set_index("way")["value"]
    assert measured["full"] > 1
    assert (table["targets"] == "t").all()
    assert "evict.knorm" in (tmp_path / "f.html").read_text()
    paths = {kind: tmp_path / f"f.{kind}" for kind in ("svg", "pdf")}
    run_script("plot_frontier", scores=tmp_path / "scores.csv", **paths)
    assert "<svg" in paths["svg"].read_text()
    again = tmp_path / "again.svg"
    run_script("plot_frontier", scores=tmp_path / "scores.csv", svg=again, pdf=paths["pdf"])
    assert digest_file(again) == digest_file(paths["svg"])


def test_a_reader_trained_on_the_documents_is_flagged(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = score(folder, "random", trained_on=[folder / "all.parquet"])
    assert table["flag"].str.contains(r"trained on \d+ of the \d+ documents, such as").all()
    assert "SHA-256" in caplog.text


def test_a_way_that_fails_leaves_a_table(folder: Path) -> None:
    table = score(folder, "evict.snapkv", rates=[0.5], table_path=folder / "evict.snapkv.csv")
    assert len(table) == 4
    loading = {"run": None, "inputs": Inputs(), "loading": {"dtype": "float8"}, "seed": 0}
    failed = score(folder, "none", reader={**loading, "device": "cpu"},
                   table_path=folder / "none.csv")  # fmt: skip
    assert failed["nats"].isna().all()
    assert "dtype" in failed["flag"][0]
    score(folder, "none")
