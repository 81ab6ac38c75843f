"""What happens after each step of a training."""

import logging
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from terse.methods.hierarchical.model import own_model
from terse.methods.hierarchical.settings import HierarchicalSettings
from terse.methods.hierarchical.tables import sample
from terse.training.tracking import track_text

logger = logging.getLogger(__name__)


class AfterStep(TrainerCallback):
    """Moves codebooks and thresholds once per optimiser step."""

    def on_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        **_: Any,
    ) -> None:
        own_model(model).after_step()


class Samples(TrainerCallback):
    """Writes samples of the model to the log every `generation_interval` steps."""

    def __init__(self, settings: HierarchicalSettings) -> None:
        self._every = settings.generation_interval

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        **_: Any,
    ) -> None:
        due = self._every is not None and state.global_step % self._every == 0
        if not due or not state.is_world_process_zero:
            return
        found = own_model(model)
        was_training = found.training
        for name, text in sample(found.eval()).items():
            logger.info("step %d, %s: %r", state.global_step, name, text)
            track_text(state.global_step, name.replace(" ", "-"), text)
        found.train(was_training)
