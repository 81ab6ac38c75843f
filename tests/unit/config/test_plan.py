"""The plan of a workflow against what was really stored, and what its jobs really took."""

import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import yaml
from snakemake.utils import update_config

from terse.activations.reduction import planned
from terse.cli import main
from terse.config import load
from terse.config.plan.jobs import works
from terse.config.plan.sizes import measured
from terse.config.resources import model_mem_mb
from terse.config.workflow import Workflow
from terse.models.modules import ModuleRef

ROOT = Path(__file__).parents[3]
# Of a finished run of tests/config/tiny.yaml on two cores without other work, from the benchmark
# files: processor seconds (cpu_time), peak memory (max_rss, MB) of each job.
TINY = {
    "collect_corpus": ([1.36], [125]),
    "train_tokenizer": ([3.97, 3.35], [333, 295]),
    "tokenize_corpus": ([4.14, 3.60], [387, 406]),
    "encode_corpus": ([9.30], [275]),
    "train_model": ([8.86, 8.83, 7.59, 7.78, 9.01, 9.13, 9.70, 9.06], [577, 531, 580, 517]),
    "cache_activations": ([8.35, 8.57, 7.83, 8.18, 9.20, 8.94], [598, 598, 598, 598, 598, 598]),
    "estimate_dimensions": ([11.54, 13.19, 12.63], [552, 552, 551]),
    "evaluate_run": ([12.75, 10.08, 8.06, 7.45, 9.52, 11.72, 11.26, 11.96], [590, 644, 507]),
}
TINY_BYTES = 1_001_033 + 1_000_596  # both shards of `base`
# Of the default run on two cores, some other work, from the end of each job's log: processor
# seconds of its threads, which had nothing to import any more.
DEFAULT = {
    "train_model": {"base": 169.4, "compress": 58.2, "blotch": 32.4, "blotch-vanilla": 38.5,
                    "codes": 86.1},
    "encode_corpus": {"codes-lm": 25.3},
    "cache_activations": {"smollm2": 108.7, "base-step0": 4.0, "base-step100": 3.9},
    "estimate_dimensions": {"smollm2": 4.6, "base-step100": 18.4},
    "evaluate_run": {"blotch": 10.3, "blotch-vanilla": 4.9},
    "score_reading": {"docs, full": 1.9, "docs, none": 1.0, "docs, recency": 3.0},
    "score_evictions": {"docs": 4.1},
    "collect_corpus": {"python-docs": 6.6},
    "tokenize_corpus": {"python-docs, bpe": 1.8, "python-docs, smollm2": 3.7},
}  # fmt: skip
CONTEXTS = {"smollm2": 21, "base-step0": 100, "base-step100": 100}  # that were cut
IMPORTS_S = {"collect_corpus": 1.0, "tokenize_corpus": 3.5}  # seconds, 7 of all others
IN_SECONDS = {
    "verify_activations", "export_activations", "decimate_cloud", "make_corpus_tasks",
    "run_lm_eval", "convert_gguf", "apply_adapter", "cut_windows",
}  # fmt: skip


# The sizes with which the jobs of DEFAULT were measured, so that the default may change.
MEASURED_WITH = {
    "base": {"max_steps": 250, "eval_documents": 2000}, "compress": {"eval_windows": 600},
    "blotch": {"max_steps": 450}, "blotch-vanilla": {"max_steps": 450},
    "forget": {"n_train_loops": 9}, "codes": {"max_steps": 150, "eval_bytes": 60000},
    "codes-lm": {"max_steps": 150, "eval_bytes": 60000, "train_rows": 2400},
    "byte-lm": {"max_steps": 150},
}  # fmt: skip


def configured(*overlays: str, **changes: Any) -> Workflow:
    raw: dict[str, Any] = {}
    for name in ("config/config.yaml", *overlays):
        update_config(raw, yaml.safe_load((ROOT / name).read_text()))
    update_config(raw, changes)
    return load(raw)


def tiny() -> Workflow:
    scored = {"eval_documents": 2000}  # as when TINY was measured
    return configured("tests/config/tiny.yaml", runs={"base": scored, "byte-lm": scored})


def test_the_plan_is_within_twice_of_what_the_tiny_workflow_took(tmp_path: Path) -> None:
    settings = tiny()
    size = measured(settings, "base", tmp_path)
    assert TINY_BYTES / 2 < (size.bytes or 0) < 2 * TINY_BYTES
    found = works(settings, settings.select.ids, settings.select.runs, tmp_path)
    for rule, (seconds, memory) in TINY.items():
        jobs = [work for work in found if work.rule == rule]
        assert sum(work.jobs for work in jobs) == len(seconds), rule
        planned_s = sum(work.jobs * (work.seconds or 0) for work in jobs)
        assert sum(seconds) / 2 < planned_s < 2 * sum(seconds), rule
        for work in jobs:
            assert max(memory) / 2 < (work.needs_mb or 0) < 2 * max(memory), rule


def test_each_job_of_the_default_run_took_what_the_plan_says_within_twice(tmp_path: Path) -> None:
    settings = configured(runs=MEASURED_WITH)
    for model, n in CONTEXTS.items():
        path = tmp_path / "cache" / "chunks" / f"{model}.h5"
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(path, "w") as file:
            file["tokens"] = np.zeros((n, 2))
    found = works(settings, settings.select.ids, settings.selected_runs(), tmp_path,
                  studies=settings.select.frontier)  # fmt: skip
    planned_s = {(work.rule, work.name): work.seconds for work in found}
    threads = {"collect_corpus": 1, "tokenize_corpus": 1, "score_reading": 1,
               "score_evictions": 1}  # fmt: skip
    for rule, jobs in DEFAULT.items():
        for name, processor_s in jobs.items():
            of_run = settings.runs[name].threads if rule in ("train_model", "evaluate_run") else 2
            took = IMPORTS_S.get(rule, 7.0) + processor_s / threads.get(rule, of_run)
            assert took / 2 < (planned_s[rule, name] or 0) < 2 * took, (rule, name)


def test_every_rule_that_costs_is_in_the_plan(tmp_path: Path) -> None:
    text = "".join(path.read_text() for path in (ROOT / "rules").glob("*.smk"))
    local = {
        name
        for block in re.findall(r"^localrules:\n((?:    \w+,\n)+)", text, re.M)
        for name in re.findall(r"\w+", block)
    }
    settings = configured()
    found = works(settings, settings.select.ids, settings.selected_runs(), tmp_path,
                  studies=settings.select.frontier)  # fmt: skip
    planned_rules = {work.rule for work in found}
    assert all(work.seconds for work in found)
    rules = set(re.findall(r"^rule (\w+):", text, re.M))
    assert rules - (local - {"collect_corpus"}) - IN_SECONDS == planned_rules


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
    assert asked.cloud == activations.cloud  # decided anew for a copy with other activations
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
    assert size.contexts == 1000 * 5  # documents of the corpus x contexts of each
    assert (size.modules, size.shards) == (4 * 3 + 1, 10)
    assert 4096 / 1.5 < (size.width or 0) < 4096 * 1.5


def test_a_capture_requests_what_its_batches_take(tmp_path: Path) -> None:
    needed = {}
    for batch_size in (1, 64):
        large = {"activations": {"batch_size": batch_size, "ctx_len": 512}}
        settings = configured("tests/config/tiny.yaml", models={"llama-7b": large})
        [work] = [
            work for work in works(settings, ["llama-7b"], [], tmp_path)
            if work.rule == "cache_activations"
        ]  # fmt: skip
        needed[batch_size] = work.needs_mb or 0
        assert work.requested_mb >= needed[batch_size]
        assert model_mem_mb(settings, "llama-7b", 3, needed[batch_size]) == 2 * work.requested_mb
    assert needed[64] > needed[1] + 8 * 63 * 512 * 13 * 4096 / 1.5 / 1e6


def test_a_model_that_was_fetched_is_planned_by_its_own_config(tmp_path: Path) -> None:
    settings = tiny()
    guessed = measured(settings, "llama-7b", tmp_path)
    folder = tmp_path / "cache" / "models" / "llama-7b"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"num_hidden_layers": 30, "hidden_size": 576}')
    size = measured(settings, "llama-7b", tmp_path)
    assert size.width == 576 != guessed.width
    assert guessed.modules == size.modules == 4 * 3 + 1  # four of its layers are measured


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
