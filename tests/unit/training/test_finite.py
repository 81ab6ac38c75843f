"""What is not finite is never published, and every step of a training is in its history."""

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from transformers import TrainerCallback

from terse.errors import TerseError
from terse.evaluation.lm_eval.harness import results_table
from terse.evaluation.measures import Measure, measures_table
from terse.machine.signals import Stopped, StopSignal
from tiny_training import AtStep, tiny_method, train_tiny

HISTORY = ["step", "split", "loss_nats", "gradient_norm", "learning_rate"]


class Poison(TrainerCallback):
    """Makes one weight something that is no number at the end of a step."""

    def __init__(self, step: int, value: float) -> None:
        self.step, self.value = step, value

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        if state.global_step == self.step:
            with torch.no_grad():
                next(iter(given["model"].parameters())).view(-1)[-1] = self.value


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(
    ("step", "changes"),
    [
        (5, {}), (7, {}), (10, {"log_interval": 5, "eval_interval": 100}),
        (10, {"log_interval": 100, "eval_interval": 100}), (12, {}),
        (12, {"log_interval": 100, "eval_interval": 100, "checkpoint_steps": []}),
    ],
)  # fmt: skip
def test_weights_that_are_no_numbers_are_not_published(
    step: int, changes: dict[str, Any], value: float, tmp_path: Path
) -> None:
    method = tiny_method(**changes)
    method.callbacks = lambda: [Poison(step, value)]  # type: ignore[method-assign]
    with pytest.raises(TerseError, match=rf"step ({step}|{step + 1}|{step + 2})\b"):
        train_tiny(tmp_path, method=method)
    assert not (tmp_path / "model").exists()
    assert not (tmp_path / "history.csv").exists()


def test_a_validation_loss_of_nan_ends_the_training(tmp_path: Path) -> None:
    method = tiny_method()
    method.score = lambda model, batch: (math.nan, 1)  # type: ignore[method-assign]
    with pytest.raises(TerseError, match="the validation loss is nan at step 0"):
        train_tiny(tmp_path, method=method)


def test_a_term_of_nan_ends_the_training(tmp_path: Path) -> None:
    method = tiny_method()
    plain = method.loss
    method.loss = lambda *given: (plain(*given)[0], {"term": math.nan})  # type: ignore[method-assign]
    with pytest.raises(TerseError, match="term is nan at step 2"):
        train_tiny(tmp_path, method=method)


def train_rows(folder: Path) -> pd.DataFrame:
    history = pd.read_csv(folder / "history.csv")[HISTORY]
    return history[history["split"] == "train"].reset_index(drop=True)


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training with a row for each step."""
    return train_tiny(tmp_path_factory.mktemp("logged"), method=tiny_method(log_interval=1))


@pytest.mark.parametrize(
    ("interval", "steps"), [(5, [5, 10, 12]), (100, [12]), (4, [4, 8, 12]), (12, [12])]
)
def test_the_last_step_has_a_row(
    interval: int, steps: list[int], tmp_path: Path, logged: Path
) -> None:
    each = train_rows(logged)
    assert each["step"].tolist() == list(range(1, 13))
    found = train_rows(train_tiny(tmp_path / "some", method=tiny_method(log_interval=interval)))
    assert found["step"].tolist() == steps
    for first, last, loss in zip([0, *steps], steps, found["loss_nats"], strict=False):
        assert loss == pytest.approx(each["loss_nats"][first:last].mean(), rel=1e-5)


SELDOM = {"log_interval": 5, "checkpoint_steps": []}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training that nothing stopped, with a row for every five steps."""
    return train_tiny(tmp_path_factory.mktemp("whole"), method=tiny_method(**SELDOM))


@pytest.mark.parametrize("step", [3, pytest.param(6, marks=pytest.mark.slow), 11])
def test_a_stop_changes_no_row(step: int, tmp_path: Path, whole: Path) -> None:
    stop, method = StopSignal(), tiny_method(**SELDOM)
    method.callbacks = lambda: [AtStep(step, lambda: setattr(stop, "name", "SIGTERM"))]  # type: ignore[method-assign]
    with pytest.raises(Stopped):
        train_tiny(tmp_path / "cut", method=method, signal=stop)
    cut = train_tiny(tmp_path / "cut", method=tiny_method(**SELDOM))
    pd.testing.assert_frame_equal(train_rows(cut), train_rows(whole), check_exact=True)
    files = [folder / "model" / "model.safetensors" for folder in (whole, cut)]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_tables_hold_no_value_that_is_none(value: float) -> None:
    with pytest.raises(TerseError, match=f"accuracy of arm own is {value}"):
        measures_table([Measure("own", "accuracy", value, n=3)])
    with pytest.raises(TerseError, match=f"lm-eval's acc of task t is {value}"):
        results_table({"results": {"t": {"acc,none": value, "acc_stderr,none": 0.1}}})


def test_a_value_that_is_not_there_says_why() -> None:
    rows = [Measure("own", "accuracy", math.nan, flag="no answer"), Measure("own", "loss", 1.0)]
    assert measures_table(rows)["flag"].tolist() == ["no answer", ""]
    with pytest.raises(TerseError, match="interval of loss"):
        measures_table([Measure("own", "loss", 1.0, 0.0, math.inf)])
