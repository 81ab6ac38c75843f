"""Three estimates of the value of a kept token: from drawn masks, a gate, or a slope."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from terse.methods.forgetting.base_lm import at_rest
from terse.methods.forgetting.gates import gated_nats
from terse.methods.forgetting.modes import Scores
from terse.methods.forgetting.packing import Rows
from terse.methods.forgetting.policy import (
    behaviour,
    credits,
    draw,
    leave_one_out,
    log_behaviour,
    policy_loss,
    straight_through,
)
from terse.methods.forgetting.schedule import Phase

if TYPE_CHECKING:
    from terse.methods.forgetting.model import Forgetter


@dataclass(frozen=True)
class Step:
    """What a mask learns from in a batch.

    logits (B, T), with a graph. free (B, T): the droppable tokens. credited (B, T): those of them
    that targets follow. full: the targets' scores with nothing dropped.
    """

    rows: Rows
    logits: Tensor
    free: Tensor
    credited: Tensor
    phase: Phase
    full: Scores


def reinforce(model: "Forgetter", step: Step, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Return the summed loss over K drawn masks of each row, and the first of them (B, T).

    uniform (B, K, T): the random numbers that draw the masks.
    """
    s, epsilon = model.settings, step.phase.epsilon
    keeps = draw(step.logits, step.free, uniform, epsilon, s.explored)  # (B, K, T)
    with torch.no_grad(), at_rest(model.lm):
        nats = [model.score(step.rows, keep).nats for keep in keeps.unbind(1)]
    gains = step.full.nats[:, None] - torch.stack(nats, 1)  # (B, K, T)
    advantages = leave_one_out(credits(gains, step.full.scored, s.credit_window))
    log_q = log_behaviour(step.logits, keeps, epsilon, s.explored)
    q = behaviour(step.logits, epsilon, s.explored)
    scaled = advantages / model.reward_scale(advantages, step.credited, q)
    loss = policy_loss(log_q, scaled, step.credited, model.constant_length)
    return loss.sum(), keeps[:, 0]


def st_gumbel(model: "Forgetter", step: Step, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Return the summed loss through rounded gates, and the first decisions (B, T)."""
    per_target = 1 / step.full.scored.sum(1).clamp(min=1)  # (B,)
    gates = [straight_through(step.logits, one, step.credited) for one in uniform.unbind(1)]
    with at_rest(model.lm):
        losses = [gated_nats(model.lm, step.rows, g).sum(1) * per_target for g in gates]
    nats = torch.stack(losses, 1)  # (B, K)
    spread = leave_one_out(nats.detach())[..., None].expand(-1, -1, step.free.shape[1])
    scale = model.reward_scale(spread, step.credited, torch.sigmoid(step.logits))
    return nats.mean(1).sum() / (scale * model.constant_length), gates[0].detach() > 0.5


def saliency(model: "Forgetter", step: Step, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Return the summed error of the logits against the standardised slopes of the loss.

    Slopes are derivatives by the gates. The decisions (B, T) meet the budget and use noisy logits:
    the slopes know no budget.
    """
    gates = torch.ones(step.free.shape, device=step.free.device, requires_grad=True)
    with at_rest(model.lm):
        nats = gated_nats(model.lm, step.rows, gates).sum()
        (slope,) = torch.autograd.grad(nats, gates)
    wanted = standardised(-slope, step.credited)
    errors = (step.logits - wanted).square().masked_fill(~step.credited, 0.0)
    noisy = step.logits.detach() + torch.logit(uniform[:, 0].clamp(1e-6, 1 - 1e-6))
    keep = model.best(noisy, step.rows, model.settings.mode, model.settings.forget_p)
    return errors.sum() / model.constant_length, keep


GRADIENT_ESTIMATORS: dict[str, Callable[["Forgetter", Step, Tensor], tuple[Tensor, Tensor]]] = {
    "reinforce": reinforce,
    "st_gumbel": st_gumbel,
    "saliency": saliency,
}


def standardised(values: Tensor, chosen: Tensor) -> Tensor:
    """Return values (B, T) with mean 0 and spread 1 over each row's chosen ones, else 0."""
    n = chosen.sum(1, keepdim=True).clamp(min=1)
    values = values.masked_fill(~chosen, 0.0)
    centred = (values - values.sum(1, keepdim=True) / n).masked_fill(~chosen, 0.0)
    spread = (centred.square().sum(1, keepdim=True) / n).sqrt()
    return centred / spread.clamp(min=1e-12)
