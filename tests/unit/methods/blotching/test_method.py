"""Training, resuming and loading the method `blotching`, on problems and on text."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from terse.errors import TerseError
from terse.figures.study import FinishedRun, figures_of
from terse.machine.signals import Stopped, StopSignal
from terse.methods.blotching.spec import BLOTCHING
from terse.training.method import Inputs, mean_loss
from tiny_blotching import TEXT, blotching, settings
from tiny_run import AtStep, train_into

# Everything random at once: dropout, drawn positions, blotches, a curriculum.
RANDOM = {
    "posenc_type": "RandSinPositionalEncoding", "drop_p": 0.1, "curriculum_steps": 4,
    "tok_drop_p": 0.1, "n_grad_loops": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return train_into(tmp_path_factory.mktemp("trained"), blotching(**RANDOM))


@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_resumed_equals_uninterrupted(step: int, tmp_path: Path, trained: Path) -> None:
    method, stop = blotching(**RANDOM), StopSignal()
    method.callbacks = lambda: [AtStep(step, stop)]  # type: ignore[method-assign]
    with pytest.raises(Stopped):
        train_into(tmp_path, method, stop)
    train_into(tmp_path, blotching(**RANDOM))
    files = [f.relative_to(trained) for f in trained.glob("*/**/*.safetensors")]
    assert len(files) == 4
    for file in files:
        assert (tmp_path / file).read_bytes() == (trained / file).read_bytes()


def test_rows_are_read_in_their_order(tmp_path: Path) -> None:
    """Row i belongs to step i // rows_per_step, on which the curriculum relies."""
    method, seen = blotching(), []
    rows = method.training_rows()

    class Noted:
        def __len__(self) -> int:
            return len(rows)

        def __getitem__(self, index: int) -> Any:
            seen.append(index)
            return rows[index]

    method.training_rows = Noted  # type: ignore[method-assign, assignment]
    train_into(tmp_path, method)
    assert seen == list(range(6 * 8))


def test_the_history_has_the_schedule_of_the_settings(trained: Path) -> None:
    history = pd.read_csv(trained / "history.csv")
    rates = history[history["split"] == "train"].set_index("step")["learning_rate"]
    expected = [settings(**RANDOM).lr_factor(step) * 5e-3 for step in rates.index]
    np.testing.assert_allclose(rates, expected)
    assert rates.iloc[-1] < rates.iloc[0]


def test_a_saved_model_is_the_one_that_was_trained(trained: Path) -> None:
    method = blotching(**RANDOM)
    model = method.load(trained / "model")
    history = pd.read_csv(trained / "history.csv")
    last = history[history["split"] == "validation"]["loss_nats"].iloc[-1]
    assert mean_loss(method, model, method.validation_rows(), "cpu") == pytest.approx(
        last, rel=1e-5
    )
    with pytest.raises(TerseError, match="belongs to another run"):
        blotching(**RANDOM | {"arm": "direct", "curriculum_steps": 0}).load(trained / "model")


@pytest.mark.slow
def test_a_trained_model_solves_what_it_has_not_seen(tmp_path: Path) -> None:
    method = blotching(
        max_num=20, max_ents=2, n_problems=3000, n_val_problems=60, d_model=64, n_layers=2,
        max_steps=500, batch_size=64, lr=4e-3, warmup_steps=50, log_interval=100,
        eval_interval=500, checkpoint_steps=[], val_batch_size=60,
    )  # fmt: skip
    folder = train_into(tmp_path, method)
    found = method.evaluate(method.load(folder / "model"), "cpu")
    values = {(m.arm, m.measure): m.value for m in found}
    assert values["greedy p=0", "accuracy"] > values["chance", "accuracy"] + 0.3
    assert values["greedy p=1", "length_ratio"] <= values["greedy p=0", "length_ratio"]


def test_text_is_trained_on_and_scored(text_inputs: Inputs, tmp_path: Path) -> None:
    method = blotching(text_inputs, **TEXT)
    folder = train_into(tmp_path, method)
    model = method.load(folder / "model")
    found = {(m.arm, m.measure): m.value for m in method.evaluate(model, "cpu")}
    assert 4 < found["chains p=0", "loss_nats"] < 7
    assert found["chains p=1", "loss_nats_per_original_token"] < found["chains p=1", "loss_nats"]
    tables = method.tables(model, "cpu")
    assert set(tables) == {"losses", "cost"}
    run = FinishedRun("t", method.settings, pd.DataFrame(), tables)
    assert set(figures_of(BLOTCHING, [run])) == {"losses"}
    assert (folder / "model" / "tokenizer.json").exists()
    # Another run may start from it: its own language model, tied or not, is a whole one.
    base = Inputs(tokens=text_inputs.tokens, base=folder / "model")
    plain = {"d_model": None, "n_layers": None, "n_heads": None, "tokenizer": None, "base": "b"}
    onward = blotching(base, **(TEXT | plain), blotch_spacing="equal")
    started = onward.build()
    before = mean_loss(onward, started.eval(), onward.validation_rows(), "cpu")
    assert 4 < before < 8
