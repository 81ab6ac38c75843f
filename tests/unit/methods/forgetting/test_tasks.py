"""Four texts with a known answer, trained small: what is found, and what cannot be."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from terse.config.methods import settings_of
from terse.methods.forgetting.method import Forgetting
from terse.methods.forgetting.rows import Lengths
from terse.methods.forgetting.tasks import FILLER, QUERIES, SYMBOLS, TASKS, TaskRows
from terse.training.method import Inputs
from tiny_run import train_into

ROOT = Path(__file__).parents[4]


@pytest.mark.parametrize("task", TASKS)
def test_rows_are_what_the_task_says(task: str) -> None:
    lengths = Lengths(17, 8)
    rows = TaskRows(task, lengths, seed=0, n_rows=50)
    again = TaskRows(task, lengths, seed=0, n_rows=9)
    assert torch.equal(rows[8]["input_ids"], again[8]["input_ids"])
    assert not torch.equal(rows[8]["input_ids"], rows[9]["input_ids"])
    for i in range(50):
        item = rows[i]
        ids, filler = item["input_ids"].numpy(), item["is_filler"].numpy()
        assert item["is_target"].sum() == 8
        assert item["attention_mask"].all()
        assert not filler[17:].any()
        if task == "filler":
            assert filler.sum() == 8
            assert not set(ids[1:17][filler[1:17]]) & set(SYMBOLS)
        elif task == "context_filler":
            markers = np.flatnonzero((ids == 1) | (ids == 2))
            for t in np.flatnonzero(ids[:17] > 2):
                assert filler[t] == (ids[markers[markers < t][-1]] == FILLER)
        elif task == "copy":
            assert (ids[17:] == ids[1:9]).all()
            assert not filler.any()
        else:
            needed = set(ids[:17][~filler[:17]]) - {0}
            answers = {a for q, a in zip(ids[17::2], ids[18::2], strict=True) if q in QUERIES}
            assert answers <= needed
            assert not filler[1:9].all()
            assert filler[9:17].all()


def run(folder: Path, name: str, **changes: Any) -> pd.DataFrame:
    """Train a run of `config/experiments/forgetting-tasks.yaml`; return its scores by arm."""
    config = yaml.safe_load((ROOT / "config/experiments/forgetting-tasks.yaml").read_text())
    block = config["runs"][name]
    scored = {"eval_windows": 192, "eval_rates": [0.5]}
    method = Forgetting(settings_of({**block, **scored, **changes}), Inputs())  # type: ignore[arg-type]
    train_into(folder, method, save_interval=10**6)
    measures = method.evaluate(method.load(folder / "model"), "cpu")
    table = pd.DataFrame([vars(m) for m in measures])
    return table.pivot(index="arm", columns="measure", values="value")


@pytest.mark.slow
def test_filler_is_found_and_costs_nothing(tmp_path: Path) -> None:
    found = run(tmp_path, "task-filler")
    at_half = found.loc["mask-f0.5"]
    assert at_half["filler_precision"] >= 0.95
    assert at_half["filler_recall"] >= 0.95
    assert at_half["loss_nats"] <= 1.01 * found.loc["identity", "loss_nats"]
    assert at_half["loss_nats"] < found.loc["random-f0.5", "loss_nats"] - 0.01
    assert at_half["loss_nats"] < found.loc["recency-f0.5", "loss_nats"] - 0.01


@pytest.mark.slow
def test_filler_by_context_is_found_by_memory_only(tmp_path: Path) -> None:
    remembers = run(tmp_path / "rnn", "task-context-rnn").loc["mask-f0.5"]
    assert remembers["filler_precision"] >= 0.95
    assert remembers["filler_recall"] >= 0.95
    alone = run(tmp_path / "mlp", "task-context-mlp").loc["mask-f0.5"]
    assert alone["filler_precision"] < 0.7
    assert alone["loss_nats"] > remembers["loss_nats"] + 0.01


@pytest.mark.slow
def test_copying_gets_worse_with_each_token(tmp_path: Path) -> None:
    rates = [0.1, 0.25, 0.5, 0.75, 0.9]
    found = run(tmp_path, "task-copy", eval_rates=rates)["loss_nats"]
    losses = [found[f"mask-f{f}"] for f in rates]
    assert (np.diff([found["identity"], *losses]) > 0.05).all()
    assert found["identity"] < 0.5


@pytest.mark.slow
def test_keys_are_kept_where_recency_fails(tmp_path: Path) -> None:
    found = run(tmp_path, "task-recall", eval_rates=[0.5, 0.75])["loss_nats"]
    for f in ("0.5", "0.75"):
        assert found[f"mask-f{f}"] < 1.1 * found["identity"]
        assert found[f"recency-f{f}"] > 2 * found["identity"]
