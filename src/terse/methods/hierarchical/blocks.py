"""Transformer blocks, pre-norm, and stacks of them that run in parallel or step by step."""

import torch
from torch import Tensor, nn

from terse.methods.hierarchical.attention import KeyValueCache, SlidingWindowAttention


class FeedForward(nn.Module):
    """A gated MLP (SwiGLU, https://arxiv.org/abs/2002.05202)."""

    def __init__(self, dim: int, multiplier: float) -> None:
        super().__init__()
        hidden = round(multiplier * dim)
        self.gate = nn.Linear(dim, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate(x).chunk(2, -1)
        return self.down(nn.functional.silu(gate) * up)


class Block(nn.Module):
    """Attention and MLP, each added to the stream."""

    def __init__(self, dim: int, heads: int, window: int | None, multiplier: float) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(dim)
        self.attention = SlidingWindowAttention(dim, heads, window)
        self.mlp_norm = nn.RMSNorm(dim)
        self.mlp = FeedForward(dim, multiplier)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, T, D) for (B, T, D)."""
        x = x + self.attention(self.attention_norm(x))
        return x + self.mlp(self.mlp_norm(x))

    def step(self, x: Tensor, cache: KeyValueCache, rows: Tensor) -> Tensor:
        """Return (b, D) for the next position x (b, D) of some rows of a cache."""
        x = x + self.attention.step(self.attention_norm(x), cache, rows)
        return x + self.mlp(self.mlp_norm(x))


class Stack(nn.Module):
    """Consecutive blocks."""

    def __init__(self, n: int, dim: int, heads: int, window: int | None, multiplier: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(dim, heads, window, multiplier) for _ in range(n))

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, T, D) for (B, T, D)."""
        for block in self.blocks:
            x = block(x)
        return x

    def caches(self, n_rows: int, like: Tensor) -> list[KeyValueCache]:
        """Return a fresh cache for each block, of n_rows independent rows."""
        return [KeyValueCache(b.attention, n_rows, like) for b in self.blocks]  # type: ignore[union-attr]

    def step(self, x: Tensor, caches: list[KeyValueCache], rows: Tensor) -> Tensor:
        """Return (b, D) for the next position x (b, D) of some rows of the caches."""
        for block, cache in zip(self.blocks, caches, strict=True):
            x = block.step(x, cache, rows)  # type: ignore[operator]
        return x


def initialise(module: nn.Module) -> None:
    """Initialise linear maps to preserve the scale of their inputs, and embeddings at scale 1.

    Small weights would soon hold only what all inputs have in common, since the optimiser's steps
    are as large: all segments would become the same vector. Heads start small, so that all symbols
    are about equally likely at first.
    """
    for name, part in module.named_modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            spread = 1.0 if isinstance(part, nn.Embedding) else part.in_features**-0.5
            if name.endswith(("out", "down")):
                spread /= 2
            if ".heads." in name:
                spread = 0.02
            torch.nn.init.normal_(part.weight, std=spread)
            if isinstance(part, nn.Linear) and part.bias is not None:
                torch.nn.init.zeros_(part.bias)
