"""The workflow from another folder, as a module of another workflow, and with other options."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tiny_workflow import ROOT, TINY, Workflow

SNAKEMAKE = [sys.executable, "-m", "snakemake", "--workflow-profile", "none"]
MODULE = f"""
module terse:
    snakefile: "{ROOT}/Snakefile"
    {{options}}

use rule * from terse as terse_*

rule mine:
    default_target: True
    input: "{{target}}"
    output: "mine.txt"
    shell: "cp {{{{input}}}} {{{{output}}}}"
"""


def snakemake(folder: Path, *words: str) -> str:
    """Run Snakemake in a folder with nothing but what a user types; return what it prints."""
    run = subprocess.run(
        [*SNAKEMAKE, *words], cwd=folder, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, timeout=300,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout
    return run.stdout


def test_from_another_folder_and_into_one(tmp_path: Path) -> None:
    """-s from elsewhere, and -d to elsewhere, with the configuration that lies by the Snakefile."""
    target = "cache/tokenizers/bpe/tokenizer.json"
    there = snakemake(tmp_path, "-s", str(ROOT / "Snakefile"), "-n", target)
    assert "train_tokenizer" in there
    assert "train_tokenizer" in snakemake(ROOT, "-d", str(tmp_path), "-n", target)


@pytest.mark.parametrize("options", ["", pytest.param('prefix: "study"', marks=pytest.mark.slow)])
def test_as_a_module_without_a_config(options: str, tmp_path: Path) -> None:
    folder = "study/" if options else ""
    target = f"{folder}cache/tokenizers/bytes/tokenizer.json"
    (tmp_path / "Snakefile").write_text(MODULE.format(options=options, target=target))
    assert "terse_train_tokenizer" in snakemake(tmp_path, "-n")


@pytest.mark.slow
def test_a_prefixed_module_keeps_everything_in_its_folder(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "overlay.json").write_text(
        json.dumps({"roots": {"state": str(tmp_path / "elsewhere")}})
    )
    target = "study/results/runs/base/history.csv"
    (tmp_path / "Snakefile").write_text(MODULE.format(options='prefix: "study"', target=target))
    snakemake(tmp_path, "-c2", "--configfile", str(TINY), "overlay.json")
    assert (tmp_path / "study" / "state").is_symlink()
    made = {path.name for path in tmp_path.iterdir()}
    assert not made & {"state", "results", "cache"}


@pytest.mark.slow
def test_until_the_trainings(tmp_path: Path) -> None:
    """Snakemake itself would end in "BUG: Out of jobs ready to be started"."""
    default = Workflow(tmp_path)
    text = default("-n", "--until", "train_model", check=False)
    assert "config error: --until train_model" in text
    assert "snakemake trainings" in text
    plan = default.plan("trainings")
    assert plan["train_model"] == 8
    assert not plan.keys() & {"evaluate_run", "cache_activations"}


@pytest.mark.slow
def test_other_deployment_is_answered(tmp_path: Path) -> None:
    text = Workflow(tmp_path)("-n", "cache/tokenizers/bytes/tokenizer.json", "--sdm", "conda")
    assert "terse: --sdm conda changes nothing: no rule has an environment of its own" in text
