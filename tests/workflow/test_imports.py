"""Files as users of the other systems have them: imported, planned and trained, unedited."""

from pathlib import Path

import pytest

from terse.importer import import_file
from tiny_workflow import ROOT, Workflow

FILES = ROOT / "tests" / "imports"
TRAININGS = {
    "blotch_all.json": 6, "blotch_glue.json": 6, "cmp_all.json": 4, "joint_config.py": 1,
    "stage1_super_tiny_config.py": 1, "stage2_super_tiny_config.py": 1,
}  # fmt: skip


def imported(name: str, folder: Path, load_base_from: str | None = None) -> Path:
    """Write the overlay of a file and return its path."""
    path = folder / f"{name}.yaml"
    path.write_text(import_file(FILES / name, load_base_from=load_base_from).text())
    return path


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAININGS)
def test_trainings_are_planned(name: str, tmp_path: Path) -> None:
    plan = Workflow(tmp_path, imported(name, tmp_path)).plan()
    assert plan["train_model"] == plan["evaluate_run"] == TRAININGS[name]


@pytest.mark.slow
def test_a_measurement_is_planned(tmp_path: Path) -> None:
    plan = Workflow(tmp_path, imported("default_config.py", tmp_path)).plan()
    assert plan["cache_activations"] == plan["download_model"] == plan["collect_corpus"] == 1
    assert "train_model" not in plan


@pytest.mark.slow
def test_two_stages_run_one_after_the_other(tmp_path: Path) -> None:
    """The files' own small sizes, on the text that needs no network."""
    local = tmp_path / "local.yaml"
    local.write_text(
        "corpora: {tinystories: {source: python-docs, max_dataset_size: 20}}\n"
        "select: {runs: [stage1, stage2]}\ntracking: none\n"
    )
    stages = [
        imported("stage1_super_tiny_config.py", tmp_path),
        imported("stage2_super_tiny_config.py", tmp_path, load_base_from="stage1"),
    ]
    workflow = Workflow(tmp_path, *stages, local)
    workflow("-c2")
    for run in ("stage1", "stage2"):
        kept = tmp_path / "results" / "runs" / run / "checkpoints"
        assert {path.name for path in kept.iterdir()} == {f"step-{i}" for i in (0, 2, 4, 6)}
        assert (tmp_path / "results" / "runs" / run / "evaluation.csv").is_file()
