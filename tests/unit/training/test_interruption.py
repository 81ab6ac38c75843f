"""However a training is cut, the same command ends in the same weights, bit for bit."""

import json
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from terse.errors import TerseError
from terse.machine.signals import Stopped, StopSignal
from terse.training.state import TrainingState
from tiny_training import AtStep, TinyMethod, tiny_method, train_tiny, with_callback
from tiny_workflow import wait_for

Weights = Callable[[Path], dict[str, bytes]]


@pytest.mark.parametrize(
    "step", [1, 7, *(pytest.param(i, marks=pytest.mark.slow) for i in (4, 9, 11))]
)
def test_stop_signal_saves_and_the_next_attempt_goes_on(
    step: int, tmp_path: Path, undisturbed: Path, weights: Weights
) -> None:
    stop = StopSignal()
    method = with_callback(AtStep(step, lambda: setattr(stop, "name", "SIGTERM")))
    with pytest.raises(Stopped, match=f"stopped by SIGTERM at step {step} of 12"):
        train_tiny(tmp_path, method=method, signal=stop)
    assert not (tmp_path / "model").exists()
    assert weights(train_tiny(tmp_path)) == weights(undisturbed)
    pd.testing.assert_frame_equal(validations(tmp_path), validations(undisturbed))


def validations(folder: Path) -> pd.DataFrame:
    history = pd.read_csv(folder / "history.csv")
    found = history[history["split"] == "validation"]
    return found[["step", "epoch", "loss_nats"]].reset_index(drop=True)


@pytest.mark.parametrize("step", [*(pytest.param(i, marks=pytest.mark.slow) for i in (2, 6)), 10])
def test_failing_step_loses_only_what_came_after_the_last_save(
    step: int, tmp_path: Path, undisturbed: Path, weights: Weights
) -> None:
    def fail() -> None:
        raise RuntimeError("the machine is on fire")

    with pytest.raises(RuntimeError, match="on fire"):
        train_tiny(tmp_path, method=with_callback(AtStep(step, fail)))
    assert weights(train_tiny(tmp_path)) == weights(undisturbed)


@pytest.mark.parametrize("seed", [0, 1])
def test_what_the_holder_finished_is_taken_where_it_is_the_same(
    seed: int,
    tmp_path: Path,
    undisturbed: Path,
    weights: Weights,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A second process waits for the first, which publishes the training of this seed."""
    caplog.set_level("INFO")
    holder = TrainingState(tmp_path / "state" / "tiny" / "digest")
    waiting = threading.Thread(target=train_tiny, args=(tmp_path,))
    waiting.start()
    wait_for(lambda: "waiting for" in caplog.text)
    shutil.copytree(undisturbed, tmp_path, dirs_exist_ok=True)
    (tmp_path / "run.json").write_text(json.dumps({"seed": seed}))
    published = (tmp_path / "model" / "model.safetensors").stat().st_ino
    holder.delete()
    holder.__exit__()
    waiting.join()
    assert weights(tmp_path) == weights(undisturbed)
    taken = (tmp_path / "model" / "model.safetensors").stat().st_ino == published
    assert taken == (seed == 0)
    assert not (tmp_path / "state" / "tiny" / "digest").exists()


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
import terse.artifacts as artifacts
import terse.training.state as state
from tiny_training import train_tiny

original = artifacts.{function}
def doomed(*paths):
    if any(part.lstrip(".").split(".partial")[0] == sys.argv[2] for part in paths[-1].parts):
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*paths)
artifacts.{function} = doomed
train_tiny(Path(sys.argv[1]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "name", "left"),
    [
        ("publish_folder", "step-0", []),
        ("sync", "checkpoint-4", []),
        ("publish_folder", "step-7", ["checkpoint-4"]),
        ("sync", "checkpoint-8", ["checkpoint-4"]),
        ("publish_folder", "checkpoint-12", ["checkpoint-4", "checkpoint-8"]),
        ("publish_folder", "model", ["checkpoint-8", "checkpoint-12"]),
    ],
)
def test_kill_in_the_middle_of_saving(
    function: str, name: str, left: list[str], tmp_path: Path, undisturbed: Path, weights: Weights
) -> None:
    code = KILLED.format(function=function)
    words = [sys.executable, "-c", code, str(tmp_path / "run"), name]
    environment = {"PYTHONPATH": str(Path(__file__).parents[2] / "support")}
    run = subprocess.run(words, env=environment, capture_output=True)
    assert run.returncode == -signal.SIGKILL, run.stderr.decode()
    state = tmp_path / "run" / "state" / "tiny" / "digest"
    assert {path.name for path in state.glob("checkpoint-*")} == set(left)
    assert weights(train_tiny(tmp_path / "run")) == weights(undisturbed)


def test_terms_are_means_over_the_steps_since_the_last_row(tmp_path: Path) -> None:
    """Also in the first row after a training went on in the middle of an interval."""

    def with_a_term(method: TinyMethod) -> TinyMethod:
        plain = method.loss
        method.loss = lambda *words: (plain(*words)[0], {"one": 0.5})  # type: ignore[method-assign]
        return method

    def terms(folder: Path) -> list[float]:
        return pd.read_csv(folder / "history.csv")["one"].dropna().tolist()

    whole = train_tiny(tmp_path / "whole", method=with_a_term(tiny_method()))
    stop = StopSignal()
    cut = with_a_term(with_callback(AtStep(5, lambda: setattr(stop, "name", "SIGTERM"))))
    with pytest.raises(Stopped):
        train_tiny(tmp_path / "cut", method=cut, signal=stop)
    train_tiny(tmp_path / "cut", method=with_a_term(tiny_method()))
    assert terms(tmp_path / "cut") == terms(whole)
    assert terms(whole)[:3] == [1.0] * 3  # two passes a step, half in each


def test_damaged_checkpoint_is_passed_over(
    tmp_path: Path, undisturbed: Path, weights: Weights, caplog: pytest.LogCaptureFixture
) -> None:
    stop = StopSignal()
    method = with_callback(AtStep(9, lambda: setattr(stop, "name", "SIGTERM")))
    with pytest.raises(Stopped):
        train_tiny(tmp_path, method=method, signal=stop)
    newest = tmp_path / "state" / "tiny" / "digest" / "checkpoint-9"
    optimizer = newest / "optimizer.pt"
    optimizer.write_bytes(optimizer.read_bytes()[:-100])
    assert weights(train_tiny(tmp_path)) == weights(undisturbed)
    assert "checkpoint-9 is damaged: skipped" in caplog.text


def test_what_comes_out(undisturbed: Path) -> None:
    names = {str(f.relative_to(undisturbed)) for f in undisturbed.rglob("*.safetensors")}
    assert names == {
        "model/model.safetensors",
        "checkpoints/step-0/model.safetensors",
        "checkpoints/step-7/model.safetensors",
    }
    assert not (undisturbed / "state" / "tiny" / "digest").exists()
    assert not list(undisturbed.glob("model/*.bin"))
    history = pd.read_csv(undisturbed / "history.csv")
    train_rows = history[history["split"] == "train"]
    assert list(train_rows["step"]) == [2, 4, 6, 8, 10, 12]
    assert train_rows[["loss_nats", "learning_rate", "tokens_per_s"]].notna().all(axis=None)
    validation = history[history["split"] == "validation"]
    assert list(validation["step"]) == [0, 5, 10, 12]
    assert validation["loss_nats"].iloc[-1] < validation["loss_nats"].iloc[0]


def test_kept_weights_are_those_of_their_step(tmp_path: Path, undisturbed: Path) -> None:
    """A run that ends at step 7 under a constant rate has the weights kept at step 7."""
    kept = train_tiny(tmp_path / "long", method=tiny_method(lr_schedule="constant", warmup_steps=0))
    short = tiny_method(
        lr_schedule="constant", warmup_steps=0, max_steps=7, checkpoint_steps=[0, 7]
    )
    ended = train_tiny(tmp_path / "short", method=short)
    weights = [
        (folder / name / "model.safetensors").read_bytes()
        for folder, name in ((kept, "checkpoints/step-7"), (ended, "model"))
    ]
    assert weights[0] == weights[1]


def test_loss_that_is_not_finite_ends_the_training(tmp_path: Path) -> None:
    method = tiny_method()
    loss = method.loss

    def poisoned(*given: Any) -> tuple[torch.Tensor, dict[str, float]]:
        found, terms = loss(*given)  # a validation has no gradients, and stays finite
        return found * (float("nan") if torch.is_grad_enabled() else 1.0), terms

    method.loss = poisoned  # type: ignore[method-assign]
    with pytest.raises(TerseError, match="the loss is nan at step 2"):
        train_tiny(tmp_path, method=method)


def test_a_second_writer_finds_out_and_ends(tmp_path: Path) -> None:
    first = TrainingState(tmp_path / "s")
    first.__exit__()  # as when its host is gone but its process lives on
    second = TrainingState(tmp_path / "s")
    with (
        pytest.raises(TerseError, match=r"the training of .* was taken over"),
        first.saving("x") as f,
    ):
        (f / "weights").write_text("old")
    with second.saving("x") as folder:
        (folder / "weights").write_text("new")
    assert (tmp_path / "s" / "x" / "weights").read_text() == "new"
