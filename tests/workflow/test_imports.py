"""Files as users of the other systems have them: imported and trained without edits by hand."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from snakemake.utils import update_config

from terse.config import load, read_yaml
from terse.importer import import_file
from tiny_workflow import ROOT, TINY, Workflow

FILES = ROOT / "tests" / "imports"
SELECTED = {
    "blotch_all.json": (6, 0), "blotch_glue.json": (6, 0), "cmp_all.json": (4, 0),
    "joint_config.py": (1, 0), "stage1_super_tiny_config.py": (1, 0),
    "stage2_super_tiny_config.py": (1, 0), "default_config.py": (0, 1),
}  # fmt: skip
# The files' own keys on text and models that need no network, and one point of each sweep.
LOCAL = """
tracking: none
n_data_procs: 1
corpora:
  openwebtext: &text {source: python-docs, max_dataset_size: 20, validation_fraction: 0.3}
  openwebtext-sentences: {<<: *text, separator_pattern: '[.!?]\\s+'}
  tinystories: *text
tokenizers: {bpe-openwebtext-sentences: {vocab_size: 300}}
runs:
  blotch-search: {sweep: {seed: [2], blotch_p: [0.3]}}
  cmp-search: {sweep: {lr: [0.001], cmp_layer: [half]}, eval_windows: 40, n_samples: 0}
  stage1: &few {eval_bytes: 2000, n_samples: 0}
  stage2: {<<: *few, train_rows: 100}
models:
  bloomz-560m: {hub: null, run: base}
  test:
    hub: null
    run: base
    activations:
      {corpus: python-docs, ctx_len: 32, layer_idx_list: [0, 1], n_shards: 1}
select: {runs: [blotch-search, cmp-search, stage1, stage2], ids: [test]}
"""


def imported(name: str, folder: Path, load_base_from: str | None = None) -> Path:
    """Write the overlay of a file and return its path."""
    path = folder / f"{name}.yaml"
    path.write_text(import_file(FILES / name, load_base_from=load_base_from).text())
    return path


@pytest.mark.parametrize("name", SELECTED)
def test_a_file_lies_over_the_default_configuration(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config: dict[str, Any] = read_yaml(ROOT / "config" / "config.yaml")
    overlay = imported(name, tmp_path)
    caplog.clear()
    update_config(config, yaml.safe_load(overlay.read_text()))
    found = load(config)
    assert (len(found.selected_runs()), len(found.select.ids)) == SELECTED[name]
    assert not caplog.messages  # an overlay has today's names


@pytest.mark.slow
def test_every_system_runs(tmp_path: Path) -> None:
    local = tmp_path / "local.yaml"
    local.write_text(LOCAL)
    workflow = Workflow(
        tmp_path, TINY, *(imported(n, tmp_path) for n in ("blotch_all.json", "cmp_all.json")),
        imported("stage1_super_tiny_config.py", tmp_path),
        imported("stage2_super_tiny_config.py", tmp_path, load_base_from="stage1"),
        imported("default_config.py", tmp_path), local,
    )  # fmt: skip
    runs = {
        "blotch-search-2-0.3": 6, "cmp-search-0.001-half": 6, "stage1": 6, "stage2": 6,
    }  # fmt: skip
    files = [f"results/runs/{run}/evaluation.csv" for run in runs]
    workflow("-c2", "results/ids/test.csv", *files)
    for run, steps in runs.items():
        kept = tmp_path / "results" / "runs" / run / "checkpoints"
        made = {path.name for path in kept.iterdir() if not path.name.startswith(".")}
        assert made == {f"step-{i}" for i in range(0, steps + 1, 2)}
        assert pd.read_csv(kept.parent / "evaluation.csv")["value"].notna().any()
    assert set(pd.read_csv(tmp_path / "results/ids/test.csv")["estimator"]) == {
        "mle", "mind_ml", "twoNN_f10",
    }  # fmt: skip
