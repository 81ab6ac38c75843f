"""The plan of a workflow against what was really stored, and what its jobs really took."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from snakemake.utils import update_config

from terse.activations.reduction import planned
from terse.cli import main
from terse.config import load
from terse.config.plan import measured, works
from terse.config.workflow import Workflow
from terse.models.modules import ModuleRef

ROOT = Path(__file__).parents[3]
# Of a finished run of tests/config/tiny.yaml on two cores without other work, from the benchmark
# files: processor seconds (cpu_time), peak memory (max_rss, MB) of each job.
TINY = {
    "cache_activations": ([8.35, 8.57, 7.83, 8.18, 9.20, 8.94], [598, 598, 598, 598, 598, 598]),
    "estimate_dimensions": ([11.54, 13.19, 12.63], [552, 552, 551]),
}
TINY_BYTES = 1_001_033 + 1_000_596  # both shards of `base`


def tiny() -> Workflow:
    raw: dict[str, Any] = {}
    for name in ("config/config.yaml", "tests/config/tiny.yaml"):
        update_config(raw, yaml.safe_load((ROOT / name).read_text()))
    return load(raw)


def test_the_plan_is_within_twice_of_what_the_tiny_workflow_took(tmp_path: Path) -> None:
    settings = tiny()
    size = measured(settings, "base", tmp_path)
    assert TINY_BYTES / 2 < (size.bytes or 0) < 2 * TINY_BYTES
    found = works(settings, settings.select.ids, [], tmp_path)
    for rule, (seconds, memory) in TINY.items():
        jobs = [work for work in found if work.rule == rule]
        assert sum(work.jobs for work in jobs) == len(seconds)
        planned_s = sum(work.jobs * (work.seconds or 0) for work in jobs)
        assert sum(seconds) / 2 < planned_s < 2 * sum(seconds), rule
        for work in jobs:
            assert max(memory) / 2 < (work.needs_mb or 0) < 2 * max(memory), rule


@pytest.mark.parametrize(
    "changes",
    [
        {}, {"save_cache_tensors": False}, {"save_mean_tensors": False, "save_loss": False},
        {"layer_idx_list": [0, -1], "module_outblock_keys": ["emb", "norm"]},
        {"cloud": "means", "save_cache_tensors": False},
        {"cloud": "last_token", "save_cache_tensors": False},
    ],
)  # fmt: skip
def test_the_bytes_are_those_of_the_shards(changes: dict[str, Any], tmp_path: Path) -> None:
    settings = tiny()
    assert settings.activations is not None
    activations = settings.activations.model_copy(update=changes)
    settings = settings.model_copy(update={"activations": activations})
    size = measured(settings, "base", tmp_path)
    asked = settings.measure("base")
    layers = range(2)  # of tests/config/tiny.yaml; 0 and -1 are both of them
    keys = [f"{key}-l{layer}" for layer in layers for key in asked.module_inblock_keys]
    keys += asked.module_outblock_keys
    refs = {key: ModuleRef(key, "path", None, torch.nn.Identity()) for key in keys}
    outputs = {key: torch.zeros(1, 2, 32) for key in keys}
    plan = planned(asked, refs, outputs)
    assert (size.modules, size.width) == (len(keys), 32)
    assert size.context_bytes == sum(item.row_bytes for item in plan)


def test_a_hub_model_is_estimated_from_its_name(tmp_path: Path) -> None:
    settings = tiny()
    size = measured(settings, "llama-7b", tmp_path)
    assert size.contexts == 5 * settings.measure("llama-7b").max_chunks_from_a_document or True
    assert (size.modules, size.shards) == (4 * 3 + 1, 10)
    assert 4096 / 1.5 < (size.width or 0) < 4096 * 1.5


def test_the_command_prints_a_plan_and_names_what_nothing_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "config.yaml").write_text((ROOT / "config/config.yaml").read_text())
    (tmp_path / "more.yaml").write_text("models: {here: {path: /nowhere/unknown}}\n")
    assert main(["plan", "base", "here", "--configfile", "more.yaml"]) == 0
    said = capsys.readouterr().out
    (row,) = [line.split() for line in said.splitlines() if line.startswith("cache_activations  ")
              and " base " in line]  # fmt: skip
    assert row[2] == "1"
    assert float(row[3]) > 0  # minutes
    assert "without here: nothing tells their sizes" in said
    assert main(["plan", "bsae"]) == 1
    assert "did you mean 'base'" in capsys.readouterr().err
