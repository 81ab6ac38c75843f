"""Experiment trackers: MLflow through our own callback, others through the Trainer's."""

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from terse.errors import TerseError
from terse.machine.signals import Stopped
from terse.training.method import Method

if TYPE_CHECKING:  # it takes seconds to import
    from terse.training.mlflow_run import MLflowRun

_open: "list[MLflowRun]" = []  # the run of this process' training


def report_to(tracking: str) -> list[str]:
    """Return the Trainer's `report_to` for a tracker; MLflow has its own callback.

    Raises TerseError where the tracker's package is not installed.
    """
    if tracking == "none":
        return []
    if importlib.util.find_spec(tracking) is None:
        raise TerseError(f"tracking: {tracking} is not installed: pip install {tracking}")
    return [] if tracking == "mlflow" else [tracking]


class SettingsInWandb(TrainerCallback):
    """Adds the run's own settings to those that the Trainer's callback for W&B logs."""

    def __init__(self, params: dict[str, Any]) -> None:
        self._params = params

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        import wandb  # pyright: ignore[reportMissingImports] - installed by those who use it

        if wandb.run is not None:  # which WANDB_DISABLED leaves out
            wandb.config.update(self._params, allow_val_change=True)


@contextmanager
def tracked(
    tracking: str, method: Method[Any], *, name: str, results: Path, state: Path, leads: bool
) -> Iterator[list[TrainerCallback]]:
    """Point a tracker at the results folder and yield the callbacks that it needs.

    The user's environment overrides our defaults. The tracker is notified however training ends.
    """
    os.environ.setdefault("WANDB_DIR", str(results))
    os.environ.setdefault("WANDB_PROJECT", "terse")
    os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(results / "tensorboard"))
    params = method.spec.result_params(method.settings)
    if tracking != "mlflow" or not leads:
        yield [SettingsInWandb(params)] if tracking == "wandb" and leads else []
        return
    from terse.training.mlflow_run import MLflowRun

    run = MLflowRun(
        name, params, results=results, state=state,
        interval=method.settings.mlflow_batch_interval,
    )  # fmt: skip
    _open.append(run)
    status = "FAILED"
    try:
        yield [run]
        status = "FINISHED"
    except Stopped:
        status = "KILLED"
        raise
    finally:
        _open.remove(run)
        run.close(status)


def track_text(step: int, name: str, text: str) -> None:
    """Store a text, such as a sample, in the tracker of this process' training, if it has one."""
    for run in _open:
        run.text(step, name, text)
