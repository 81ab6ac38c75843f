"""Training any method into a folder, and stopping it at a step."""

from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from terse.machine.signals import StopSignal
from terse.training.method import Method
from terse.training.train import Conduct, Outputs, train


class AtStep(TrainerCallback):
    """Asks for a stop at the end of a step."""

    def __init__(self, step: int, stop: StopSignal) -> None:
        self.step, self.stop = step, stop

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            self.stop.name = "SIGTERM"


def train_into(
    folder: Path, method: Method[Any], signal: StopSignal | None = None, **conduct: Any
) -> Path:
    """Train into a folder, with its state next to it; return the folder."""
    train(
        method,
        state_folder=folder / "state",
        outputs=Outputs(
            folder / "model", folder / "checkpoints", folder / "history.csv", folder / "run.json"
        ),
        record={"settings": method.spec.result_params(method.settings)},
        conduct=Conduct(**{"name": "tiny", "results": folder, "save_interval": 2, **conduct}),
        signal=signal or StopSignal(),
    )
    return folder
