"""Normalisation that removes what all vectors have in common."""

import torch
from torch import Tensor, nn

from terse.methods.hierarchical.quantizers import summed

DECAY = 0.9  # of the running statistics, per optimiser step
EPS = 1e-5


class RunningNorm(nn.Module):
    """Vectors minus their running mean, over their running deviation, by query and dimension.

    A decoder first needs the same from all segments: which symbols are frequent. Vectors trained
    for that become equal, and a single code represents them all. So the common part is removed
    before quantisation, as by batch normalisation (https://arxiv.org/abs/2005.08520), but with the
    statistics of earlier optimiser steps: rows of a batch do not affect each other.
    """

    mean: Tensor
    variance: Tensor
    n_steps: Tensor

    def __init__(self, num_queries: int, dim: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(dim)
        self.register_buffer("mean", torch.zeros(num_queries, dim))
        self.register_buffer("variance", torch.ones(num_queries, dim))
        self.register_buffer("n_steps", torch.zeros((), dtype=torch.long))
        self._seen: Tensor | None = None  # number, sums, sums of squares since the last step

    def forward(self, x: Tensor) -> Tensor:
        """Return vectors (..., L, D), float32."""
        x = self.norm(x).float()
        return (x - self.mean) * torch.rsqrt(self.variance + EPS)

    @torch.no_grad()
    def note(self, x: Tensor) -> None:
        """Add vectors (n, L, D), the inputs of `forward`, to the next step's statistics."""
        x = self.norm(x).double()
        number = torch.full_like(x[:1].sum(0), len(x))
        seen = torch.stack([number, x.sum(0), x.square().sum(0)])
        self._seen = seen if self._seen is None else self._seen + seen

    @torch.no_grad()
    def after_step(self) -> None:
        """Update the statistics from all processes' vectors; called once per optimiser step."""
        if self._seen is None:
            return
        number, sums, squares = summed(self._seen)
        self._seen = None
        mean = sums / number.clamp(min=1)
        variance = (squares / number.clamp(min=1) - mean.square()).clamp(min=0)
        weight = 1 - DECAY if int(self.n_steps) else 1.0
        self.mean.lerp_(mean.float(), weight)
        self.variance.lerp_(variance.float(), weight)
        self.n_steps.add_(1)
