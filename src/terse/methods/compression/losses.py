"""Losses as sums over real targets, in nats and float32; the caller divides."""

import torch
from torch import Tensor, nn

from terse.training.divergence import kl_divergence

Sums = dict[str, Tensor]


def cross_entropy(logits: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Return the summed cross-entropy of targets (B, n) where the mask (B, n) is one.

    logits: (B, n, V), each aligned with its target.
    """
    labels = target.masked_fill(mask == 0, -100)
    return nn.functional.cross_entropy(
        logits.flatten(0, 1).float(), labels.flatten(), ignore_index=-100, reduction="sum"
    )


def soft_cross_entropy(logits: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Return the summed cross-entropy against a teacher's distributions, logits (B, n, V) both."""
    chosen = mask.bool()
    shares = torch.softmax(teacher[chosen].float(), -1)  # (targets, V)
    return -(shares * torch.log_softmax(logits[chosen].float(), -1)).sum()


def divergence(teacher: Tensor, logits: Tensor, mask: Tensor) -> Tensor:
    """Return the summed KL(teacher || model) over targets, from logits (B, n, V) both; >= 0."""
    chosen = mask.bool()
    return kl_divergence(teacher[chosen], logits[chosen])  # (targets, V) each
