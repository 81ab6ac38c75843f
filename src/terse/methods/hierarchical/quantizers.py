"""Vectors to codes and back: a learned codebook, residual codebooks, a fixed grid, or none."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from terse.methods.hierarchical.settings import LevelSettings


@dataclass(frozen=True)
class Quantised:
    """Quantised vectors (..., D) with the gradient of their inputs, codes (..., digits), loss.

    loss: the commitment loss, which pulls vectors to their codes, summed over vectors.
    """

    vectors: Tensor
    codes: Tensor
    loss: Tensor


class Quantizer(nn.Module, ABC):
    """The interface of all quantisers; all compute in float32.

    A vector has `digits` codes, each below `size`. Reserved symbols are not among them.
    """

    digits: int
    size: int

    def forward(self, z: Tensor, mask: Tensor) -> Quantised:
        """Quantise z (..., D); vectors where the mask (...) is false are not learnt from.

        While `warming`, training uses z itself, and the codes only follow it.
        """
        with torch.autocast(z.device.type, enabled=False):
            found = self.quantised(z.float(), mask)
        if self.training and self.warming:
            return Quantised(z.float(), found.codes, torch.zeros_like(found.loss))
        return found

    @abstractmethod
    def quantised(self, z: Tensor, mask: Tensor) -> Quantised:
        """Quantise z (..., D), float32."""

    @property
    def warming(self) -> bool:
        """Whether the codes are not yet in use."""
        return False

    @abstractmethod
    def tables(self) -> list[Tensor]:
        """Return the vectors of each digit's codes, (size, D) each; a vector is their sum."""

    def lookup(self, codes: Tensor) -> Tensor:
        """Return the vectors (..., D) of codes (..., digits)."""
        rows = [table[codes[..., g]] for g, table in enumerate(self.tables())]
        return torch.stack(rows).sum(0)

    def expected(self, shares: list[Tensor]) -> Tensor:
        """Return the mean vector (..., D) under shares (..., size) of each digit's codes."""
        with torch.autocast(shares[0].device.type, enabled=False):
            pairs = zip(shares, self.tables(), strict=True)
            return torch.stack([share.float() @ table for share, table in pairs]).sum(0)

    def usage(self, codes: Tensor) -> Tensor:
        """Return the perplexity of codes (n, digits), 1 to `size`, mean over digits."""
        found = [
            perplexity(torch.bincount(digit, minlength=self.size)) for digit in codes.unbind(1)
        ]
        return torch.stack(found).mean()

    def smoothed_usage(self) -> Tensor | None:
        """Return the same for the codebook's moving averages, None if there are none."""
        return None

    def after_step(self) -> None:
        """Update what is learnt without gradients; called once per optimiser step."""


def straight_through(z: Tensor, quantised: Tensor) -> Tensor:
    """Return the quantised vectors, bit-exact, with the gradient of z."""
    return quantised + (z - z.detach())


class VectorQuantizer(Quantizer):
    """A codebook that follows its inputs by moving averages (https://arxiv.org/abs/1711.00937).

    Statistics of all forward passes in training are kept until `after_step`. A code without a hit
    for `reset_interval` steps is replaced by a recent input at the next multiple of it, up to step
    `reset_until`. Codes are not in use up to step `warmup`, when all become recent inputs: random
    codes are so far from the inputs that a few of them would represent all.
    """

    codebook: Tensor
    cluster_size: Tensor
    cluster_sum: Tensor
    idle: Tensor
    recent: Tensor
    n_recent: Tensor
    n_steps: Tensor

    def __init__(
        self,
        dim: int,
        size: int,
        beta: float = 0.25,
        decay: float = 0.99,
        reset_interval: int = 0,
        reset_until: float = math.inf,
        warmup: float = 0,
    ) -> None:
        super().__init__()
        self.digits, self.size = 1, size
        self.beta, self.decay = beta, decay
        self.reset_interval, self.reset_until = reset_interval, reset_until
        self.warmup = int(warmup)
        codebook = torch.randn(size, dim)
        self.register_buffer("codebook", codebook)
        self.register_buffer("cluster_size", torch.ones(size))
        self.register_buffer("cluster_sum", codebook.clone())
        self.register_buffer("idle", torch.zeros(size, dtype=torch.long))
        self.register_buffer("recent", torch.zeros(size, dim))
        self.register_buffer("n_recent", torch.zeros((), dtype=torch.long))
        self.register_buffer("n_steps", torch.zeros((), dtype=torch.long))
        # Not buffers: data-parallel training would copy those of the first process to all.
        self._hits: Tensor | None = None
        self._sums: Tensor | None = None

    def quantised(self, z: Tensor, mask: Tensor) -> Quantised:
        codes = self.nearest(z)  # (...)
        vectors = self.codebook[codes]
        error = (z - vectors).square().mean(-1)
        if self.training and torch.is_grad_enabled():
            self._note(z.detach()[mask], codes[mask])
        loss = self.beta * error.masked_fill(~mask, 0.0).sum()
        return Quantised(straight_through(z, vectors), codes[..., None], loss)

    @property
    def warming(self) -> bool:
        return int(self.n_steps) < self.warmup

    def nearest(self, z: Tensor) -> Tensor:
        """Return the code (...) nearest to each vector (..., D)."""
        scores = z @ self.codebook.T - self.codebook.square().sum(1) / 2
        return scores.argmax(-1)

    def tables(self) -> list[Tensor]:
        return [self.codebook]

    def smoothed_usage(self) -> Tensor | None:
        return perplexity(self.cluster_size)

    @torch.no_grad()
    def _note(self, z: Tensor, codes: Tensor) -> None:
        """Add the statistics of vectors (n, D) with codes (n,)."""
        if self._hits is None or self._sums is None:
            self._hits = torch.zeros_like(self.cluster_size)
            self._sums = torch.zeros_like(self.cluster_sum)
        self._hits.index_add_(0, codes, torch.ones_like(z[:, 0]))
        self._sums.index_add_(0, codes, z)
        newest = z[torch.linspace(0, len(z) - 1, min(len(z), self.size)).long()]
        self.recent.copy_(torch.cat([newest, self.recent])[: self.size])
        self.n_recent.add_(len(newest)).clamp_(max=self.size)

    @torch.no_grad()
    def after_step(self) -> None:
        """Update the averages with the statistics of all processes, then reset dead codes."""
        if self._hits is None or self._sums is None:
            return
        hits, sums = summed(self._hits), summed(self._sums)
        self._hits = self._sums = None
        self.cluster_size.mul_(self.decay).add_(hits, alpha=1 - self.decay)
        self.cluster_sum.mul_(self.decay).add_(sums, alpha=1 - self.decay)
        living = self.cluster_size > 1e-6  # a code without hits keeps its average
        means = self.cluster_sum / self.cluster_size.clamp(min=1e-6)[:, None]
        self.codebook.copy_(torch.where(living[:, None], means, self.codebook))
        self.idle.add_(1).masked_fill_(hits > 0, 0)
        self.n_steps.add_(1)
        step = int(self.n_steps)
        if step == self.warmup:
            self._reset(torch.ones_like(self.idle, dtype=torch.bool))
        elif self.reset_interval and step % self.reset_interval == 0 and step <= self.reset_until:
            self._reset(self.idle >= self.reset_interval)

    def _reset(self, dead: Tensor) -> None:
        n = int(dead.sum())
        if not n or not int(self.n_recent):
            return
        # Without replacement if there are enough; drawn on the CPU, whose generator is saved.
        drawn = torch.randperm(int(self.n_recent)).repeat(-(-n // int(self.n_recent)))[:n]
        fresh = from_first_process(self.recent[drawn.to(self.recent.device)])
        self.codebook[dead] = fresh
        self.cluster_sum[dead] = fresh
        self.cluster_size[dead] = 1.0
        self.idle[dead] = 0


class ResidualQuantizer(Quantizer):
    """Codebooks, each for the residual of those before (https://arxiv.org/abs/2107.03312)."""

    def __init__(
        self,
        dim: int,
        size: int,
        n: int,
        beta: float,
        decay: float,
        reset_interval: int,
        reset_until: float = math.inf,
        warmup: float = 0,
    ) -> None:
        super().__init__()
        self.digits, self.size = n, size
        moving = (beta, decay, reset_interval, reset_until, warmup)
        self.parts = nn.ModuleList(VectorQuantizer(dim, size, *moving) for _ in range(n))
        for i, part in enumerate(self._parts()):  # residuals get smaller
            part.codebook.mul_(0.5**i)
            part.cluster_sum.mul_(0.5**i)

    def _parts(self) -> list[VectorQuantizer]:
        return [cast(VectorQuantizer, part) for part in self.parts]

    def quantised(self, z: Tensor, mask: Tensor) -> Quantised:
        rest, found = z, []
        for part in self._parts():
            found.append(part.quantised(rest, mask))
            rest = rest - found[-1].vectors.detach()
        codes = torch.cat([one.codes for one in found], -1)
        loss = torch.stack([one.loss for one in found]).sum()
        return Quantised(straight_through(z, self.lookup(codes)), codes, loss)

    @property
    def warming(self) -> bool:
        return self._parts()[0].warming

    def tables(self) -> list[Tensor]:
        return [part.codebook for part in self._parts()]

    def smoothed_usage(self) -> Tensor | None:
        return torch.stack([perplexity(part.cluster_size) for part in self._parts()]).mean()

    def after_step(self) -> None:
        for part in self._parts():
            part.after_step()


class FiniteScalarQuantizer(Quantizer):
    """A fixed grid in a few learned dimensions (https://arxiv.org/abs/2309.15505)."""

    steps: Tensor
    grid: Tensor

    def __init__(self, dim: int, levels: list[int]) -> None:
        super().__init__()
        steps = torch.tensor(levels)
        self.digits, self.size = 1, int(steps.prod())
        self.down = nn.Linear(dim, len(levels))
        self.up = nn.Linear(len(levels), dim)
        radix = torch.cumprod(torch.tensor([1, *levels[:-1]]), 0)
        self.register_buffer("steps", steps, persistent=False)
        self.register_buffer("radix", radix, persistent=False)
        places = torch.arange(self.size)[:, None] // radix % steps  # (K, n)
        self.register_buffer("grid", (places - steps // 2) / (steps // 2), persistent=False)

    def quantised(self, z: Tensor, mask: Tensor) -> Quantised:
        bounded = self._bounded(self.down(z))  # (..., n)
        whole = bounded.round()
        radix = cast(Tensor, self.radix)
        codes = ((whole.long() + self.steps // 2) * radix).sum(-1)
        vectors = self.up(straight_through(bounded, whole) / (self.steps // 2))
        return Quantised(vectors, codes[..., None], vectors.new_zeros(()))

    def _bounded(self, z: Tensor) -> Tensor:
        """Return z bounded to its grid, so that rounding gives one of the grid's steps."""
        half = (self.steps - 1) * (1 + 1e-3) / 2
        offset = torch.where(self.steps % 2 == 0, 0.5, 0.0)
        return torch.tanh(z + torch.atanh(offset / half)) * half - offset

    def tables(self) -> list[Tensor]:
        with torch.autocast(self.grid.device.type, enabled=False):
            return [self.up(self.grid)]


class NoQuantizer(Quantizer):
    """Leaves vectors unchanged; they have no codes."""

    def __init__(self) -> None:
        super().__init__()
        self.digits, self.size = 0, 0

    def quantised(self, z: Tensor, mask: Tensor) -> Quantised:
        codes = torch.empty(*z.shape[:-1], 0, dtype=torch.long, device=z.device)
        return Quantised(z, codes, z.new_zeros(()))

    def tables(self) -> list[Tensor]:
        return []


def quantizer_of(level: LevelSettings, max_steps: int) -> Quantizer:
    """Return the quantiser of a level in a training of `max_steps`."""
    until, warmup = level.vq_reset_until * max_steps, level.vq_warmup * max_steps
    moving = (level.beta, level.vq_decay, level.vq_reset_interval, until, warmup)
    match level.quantizer:
        case "vq":
            return VectorQuantizer(level.dim, level.codebook_size, *moving)
        case "residual":
            size, n = level.codebook_size, level.num_quantizers
            return ResidualQuantizer(level.dim, size, n, *moving)
        case "fsq":
            return FiniteScalarQuantizer(level.dim, level.fsq_levels or [])
        case "none":
            return NoQuantizer()


def perplexity(counts: Tensor) -> Tensor:
    """Return the number of codes in use: exp of the entropy of counts (K,), 1 to K."""
    shares = counts.double() / counts.sum().clamp(min=1e-12)
    return torch.special.entr(shares).sum().exp()


def summed(values: Tensor) -> Tensor:
    """Return the sum over all processes."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(values)
    return values


def from_first_process(values: Tensor) -> Tensor:
    """Return the first process' values in all processes."""
    if dist.is_available() and dist.is_initialized():
        values = values.contiguous()
        dist.broadcast(values, 0)
    return values
