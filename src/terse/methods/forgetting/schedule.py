"""The exploration of each epoch, and the learning rates of base and mask in it."""

from dataclasses import dataclass

from terse.methods.forgetting.settings import ForgettingSettings

BASE = "base"  # marks the optimiser's groups of the base


@dataclass(frozen=True)
class Phase:
    """A training step's share of exploration, and the values that depend on it.

    epsilon: 0..1. base_rate: the base's share of its learning rate. entropy_beta: in loss per nat.
    """

    epsilon: float
    trains_mask: bool
    base_rate: float
    entropy_beta: float


def phase_at(settings: ForgettingSettings, step: int) -> Phase:
    """Return the phase of a step, 0 .. max_steps - 1; beyond, the last one."""
    epochs = settings.exploration_epochs
    step = min(step, settings.n_steps - 1)
    epsilon = float(epochs[step * len(epochs) // settings.n_steps])
    two_step = settings.schedule == "two_step"
    return Phase(
        epsilon=epsilon,
        trains_mask=epsilon < 1,
        base_rate=settings.exploit_base_rate if two_step and epsilon == 0 else 1.0,
        entropy_beta=settings.entropy_beta * (1 - step / settings.n_steps),
    )
