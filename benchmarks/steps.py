"""Seconds per training step on our path, for the benchmarks of methods."""

import itertools
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from terse.machine.signals import StopSignal
from terse.training.method import Method
from terse.training.train import Conduct, Outputs, train


class Timed(TrainerCallback):
    """Notes when each step ends."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *_args: Any, **_options: Any) -> None:
        self.ends.append(time.perf_counter())


def trained_step(method: Method[Any], timed: Timed, *, save_interval: int = 10_000) -> float:
    """Train a method with `timed` among its callbacks; return the `median_step`."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        names = ("model", "checkpoints", "history.csv", "run.json")
        train(
            method,
            state_folder=root / "state",
            outputs=Outputs(*(root / name for name in names)),
            record={},
            conduct=Conduct(name="bench", results=root, save_interval=save_interval),
            signal=StopSignal(),
        )
    return median_step(timed.ends)


def median_step(ends: list[float]) -> float:
    """Return the median seconds per step from the times when steps end; two warm up."""
    return statistics.median(later - earlier for earlier, later in itertools.pairwise(ends[1:]))
