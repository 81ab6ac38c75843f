"""The mask as a policy: its draws, their rewards, and the gradient of the expected reward."""

import torch
from torch import Tensor


def behaviour(logits: Tensor, epsilon: float, explore_p: float) -> Tensor:
    """Return the probability (B, T) that a token is kept during training.

    epsilon: the share of exploration, which keeps 1 - explore_p of the tokens.
    """
    return (1 - epsilon) * torch.sigmoid(logits) + epsilon * (1 - explore_p)


def log_behaviour(logits: Tensor, keep: Tensor, epsilon: float, explore_p: float) -> Tensor:
    """Return the log-probability (B, K, T) of decisions (B, K, T) under `behaviour`.

    Exact in the tails; at epsilon 1 its gradient in the logits (B, T) is exactly zero.
    """
    share = torch.tensor([1 - epsilon, epsilon * (1 - explore_p), epsilon * explore_p]).log()
    own, random_keep, random_drop = share.to(logits.device)
    kept = torch.logaddexp(own + torch.nn.functional.logsigmoid(logits), random_keep)
    dropped = torch.logaddexp(own + torch.nn.functional.logsigmoid(-logits), random_drop)
    return torch.where(keep, kept[:, None], dropped[:, None])


def draw(
    logits: Tensor, droppable: Tensor, uniform: Tensor, epsilon: float, explore_p: float
) -> Tensor:
    """Return K decisions (B, K, T) from uniform numbers (B, K, T); true outside `droppable`."""
    q = behaviour(logits.detach(), epsilon, explore_p)[:, None]
    return (uniform < q) | ~droppable[:, None]


def leave_one_out(rewards: Tensor) -> Tensor:
    """Return rewards (B, K, ...) minus the mean of the row's other K - 1."""
    n = rewards.shape[1]
    return (rewards - rewards.mean(1, keepdim=True)) * (n / (n - 1))


def credits(gains: Tensor, scored: Tensor, window: int | None) -> Tensor:
    """Return the reward (B, K, T) of each token's decision, per target.

    gains (B, K, T): nats saved on each target, 0 elsewhere. scored (B, T). window: number of
    targets after a token that count; None: all targets of the row, for every token.
    """
    counts = scored.sum(1).clamp(min=1)[:, None, None]  # (B, 1, 1)
    if window is None:
        return (gains.sum(2, keepdim=True) / counts).expand_as(gains)
    before = scored.long().cumsum(1)  # (B, T): targets up to a token
    until = (before + window).minimum(before[:, -1:])
    # The sum of the gains of the first n targets, n = 0..T.
    order = torch.argsort((~scored).byte(), dim=1, stable=True)[:, None].expand_as(gains)
    sums = torch.nn.functional.pad(gains.gather(2, order).cumsum(2), (1, 0))
    first, last = (x[:, None].expand_as(gains) for x in (before, until))
    return (sums.gather(2, last) - sums.gather(2, first)) / (last - first).clamp(min=1)


def policy_loss(
    log_q: Tensor, advantages: Tensor, droppable: Tensor, constant_length: int
) -> Tensor:
    """Return -(1/K) sum_k (1/C) sum_t A_kt log q_t(m_kt) of each row, (B,).

    log_q, advantages (B, K, T). constant_length C: the same for every row, since a mean over each
    row's length would bias the gradient. (Williams 1992, doi:10.1007/BF00992696; leave-one-out:
    Kool et al. 2019, https://openreview.net/forum?id=r1lgTGL5DE.)
    """
    terms = (advantages.detach() * log_q).masked_fill(~droppable[:, None], 0.0)
    return -terms.mean(1).sum(1) / constant_length


def entropy(logits: Tensor, droppable: Tensor) -> Tensor:
    """Return the entropy in nats of the policy, summed over droppable tokens, (B,)."""
    p = torch.sigmoid(logits)
    each = torch.nn.functional.softplus(logits) - logits * p
    return each.masked_fill(~droppable, 0.0).sum(1)


def straight_through(logits: Tensor, uniform: Tensor, droppable: Tensor) -> Tensor:
    """Return gates (B, T), 0 or 1, drawn with uniform numbers (B, T), with a smooth gradient.

    The binary concrete relaxation at temperature 1 (https://arxiv.org/abs/1611.00712), rounded;
    gates outside `droppable` are 1.
    """
    noise = torch.logit(uniform.clamp(1e-6, 1 - 1e-6))
    soft = torch.sigmoid(logits + noise)
    hard = (soft > 0.5).float()
    return torch.where(droppable, hard + (soft - soft.detach()), 1.0)  # exactly 0 or 1
