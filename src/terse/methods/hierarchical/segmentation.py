"""Where segments begin: after symbols whose successor is hard to predict.

The rule of the byte latent transformer (https://arxiv.org/abs/2412.09871), with its shift: whether
symbol t + 1 opens a segment is known before that symbol is read.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rule:
    """Entropy H_t, nats: t + 1 opens if H_t > H_{t-1} + delta, H_t > threshold, or by length."""

    delta: float | None
    threshold: float | None
    max_len: int | None


def opened(entropies: Tensor, rule: Rule, shift: Tensor) -> Tensor:
    """Return which positions open a segment, (B, T) bool; the first always does.

    entropies: (B, T). shift: scalar, added to both thresholds of the rule.
    """
    opens = torch.ones_like(entropies, dtype=torch.bool)
    opens[:, 1:] = (margins(entropies, rule) > shift)[:, :-1]
    if rule.max_len is None:
        return opens
    places = torch.arange(entropies.shape[1], device=entropies.device).expand_as(opens)
    starts = torch.where(opens, places, 0).cummax(1).values
    return opens | ((places - starts) % rule.max_len == 0)


def margins(entropies: Tensor, rule: Rule) -> Tensor:
    """Return how far each entropy (B, T) exceeds the nearer of the rule's thresholds, nats."""
    before = torch.cat([torch.full_like(entropies[:, :1], torch.inf), entropies[:, :-1]], 1)
    return margin(entropies, before, rule)


def margin(entropy: Tensor, before: Tensor, rule: Rule) -> Tensor:
    """Return the same for entropies and their predecessors; infinite: there is none."""
    found = torch.full_like(entropy, -torch.inf)
    if rule.delta is not None:
        found = torch.maximum(found, entropy - before - rule.delta)
    if rule.threshold is not None:
        found = torch.maximum(found, entropy - rule.threshold)
    return found


def segment_ids(opens: Tensor) -> Tensor:
    """Return the segment (B, T) of each position, from 0."""
    return opens.long().cumsum(1) - 1


def offsets(opens: Tensor) -> Tensor:
    """Return the offset (B, T) of each position in its segment, from 0."""
    places = torch.arange(opens.shape[1], device=opens.device).expand_as(opens)
    return places - torch.where(opens, places, 0).cummax(1).values


class StreamingSegmenter:
    """The same rule, one position at a time, for B rows."""

    def __init__(self, rule: Rule, shift: Tensor, n_rows: int) -> None:
        self.rule, self.shift = rule, shift
        self.before = torch.full((n_rows,), torch.inf, device=shift.device)
        self.length = torch.zeros(n_rows, dtype=torch.long, device=shift.device)

    def step(self, entropy: Tensor, rows: Tensor) -> Tensor:
        """Take the entropies (b,) at the rows' next positions; return which end a segment, (b,).

        That is, whether the position after each opens a segment.
        """
        opens = margin(entropy, self.before[rows], self.rule) > self.shift
        length = self.length[rows] + 1
        if self.rule.max_len is not None:
            opens = opens | (length >= self.rule.max_len)
        self.before[rows] = entropy
        self.length[rows] = torch.where(opens, 0, length)
        return opens
