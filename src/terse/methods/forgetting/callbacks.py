"""What a training does before and after each step: it follows the schedule."""

from typing import Any

from torch import nn
from transformers import TrainerCallback

from terse.methods.forgetting.schedule import BASE, phase_at
from terse.methods.forgetting.settings import ForgettingSettings


class FollowSchedule(TrainerCallback):
    """Sets the model's step, slows the base where the phase says so, and updates the price."""

    def __init__(self, settings: ForgettingSettings) -> None:
        self.settings = settings
        self._rates: list[float] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        _forgetter(given["model"]).step = state.global_step

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        rate = phase_at(self.settings, state.global_step).base_rate
        groups = given["optimizer"].param_groups
        self._rates = [group["lr"] for group in groups]
        for group in groups:
            if group.get("part") == BASE:
                group["lr"] = group["lr"] * rate

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        for group, rate in zip(given["optimizer"].param_groups, self._rates, strict=True):
            group["lr"] = rate

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        _forgetter(given["model"]).update_duals()


def _forgetter(model: nn.Module) -> Any:
    return getattr(model, "module", model)
