"""What happens during a training: kept weights, the stop signal, progress."""

import logging
import sys
import time
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ProgressCallback
from transformers.utils.logging import disable_progress_bar

from terse.machine.signals import StopSignal

logger = logging.getLogger(__name__)


class KeepCheckpoints(TrainerCallback):
    """Keeps the weights at the steps that the run names, which may include step 0."""

    def __init__(self, steps: list[int], keep: Callable[[int], None]) -> None:
        self._steps = set(steps)
        self._keep = keep

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if state.global_step == 0 and 0 in self._steps:
            self._keep(0)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if state.global_step in self._steps:
            self._keep(state.global_step)


class StopOnSignal(TrainerCallback):
    """Saves the state and ends the training after the step during which the signal arrived.

    Several processes agree on that step: the signal may have reached only one of them.
    """

    def __init__(self, signal: StopSignal, any_process: Callable[[bool], bool]) -> None:
        self._signal = signal
        self._any_process = any_process

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        stop = self._any_process(self._signal.requested)
        if stop and state.global_step < state.max_steps:
            control.should_save = True
            control.should_training_stop = True


class LogLastStep(TrainerCallback):
    """Ends the history with the last step, wherever the intervals fall."""

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if state.global_step >= state.max_steps:
            control.should_log = True


class AtTheStart(TrainerCallback):
    """Calls a function when the training begins or resumes."""

    def __init__(self, act: Callable[[], None]) -> None:
        self._act = act

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self._act()


class ReportProgress(TrainerCallback):
    """Writes one line per interval to the log; the bar on a terminal is the Trainer's own."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._first = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self._start, self._first = time.perf_counter(), state.global_step
        if self._first:
            logger.info("resumes from step %d of %d", self._first, state.max_steps)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        if not logs or not ("loss" in logs or "eval_loss" in logs):
            return
        done = state.global_step - self._first
        rate = (time.perf_counter() - self._start) / max(done, 1)  # s per step
        left = f", {rate * (state.max_steps - state.global_step):.0f} s left" if done else ""
        step = f"step {state.global_step}/{state.max_steps}"
        if "eval_loss" in logs:
            logger.info("%s: validation loss %.3f nats%s", step, logs["eval_loss"], left)
        else:
            rates = (logs.get("loss_nats", logs["loss"]), logs["tokens_per_s"])
            logger.debug("%s: loss %.3f nats, %.0f tokens/s%s", step, *rates, left)


def progress_bar() -> list[TrainerCallback]:
    """Return the Trainer's bar on a terminal; otherwise disable all progress bars."""
    if sys.stderr.isatty():
        return [ProgressCallback()]
    disable_progress_bar()
    return []
