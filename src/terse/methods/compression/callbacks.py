"""What a training does before each step: it tells the model which one it is."""

from typing import Any

from transformers import TrainerCallback


class FollowStep(TrainerCallback):
    """Sets the model's step, from which it knows whether it warms up, also after a resume."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        model = given["model"]
        getattr(model, "module", model).step = state.global_step
