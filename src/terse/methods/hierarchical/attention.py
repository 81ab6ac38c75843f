"""Causal attention over only the last positions, in parallel and one position at a time.

Rotary positions: RoFormer, https://arxiv.org/abs/2104.09864.
"""

from functools import lru_cache
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.nn.functional import pad, scaled_dot_product_attention

LEAST_LENGTH = 128  # of the sequences that FlexAttention is compiled for
LEAST_WIDTH = 16  # of the heads that it can be compiled for


class SlidingWindowAttention(nn.Module):
    """Multi-head attention of position t to keys t - window..t; window None: to all before."""

    def __init__(self, dim: int, heads: int, window: int | None) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, T, D) for (B, T, D)."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        turns = rotations(torch.arange(x.shape[1], device=x.device), q.shape[-1])
        q, k = rotated(q, turns).to(v.dtype), rotated(k, turns).to(v.dtype)  # (B, H, T, d)
        mixed = windowed(q, k, v, self.window)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def step(self, x: Tensor, cache: "KeyValueCache", rows: Tensor) -> Tensor:
        """Return (b, D) for the next positions x (b, D) of the rows (b,) of a cache."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(1)  # (b, H, d)
        turns = rotations(cache.n_seen[rows], q.shape[-1])[:, None]  # (b, 1, d / 2)
        keys, values, seen = cache.add(rotated(k, turns), v, rows)
        mixed = scaled_dot_product_attention(
            rotated(q, turns)[:, :, None], keys, values, attn_mask=seen[:, None, None]
        )  # (b, H, 1, d)
        return self.out(mixed.flatten(1))


class KeyValueCache:
    """The last keys and values of B independent rows that may be at different positions.

    keys, values: (B, H, slots, d); position t is in slot t mod slots. n_seen: (B,) positions so
    far. Without a window, the number of slots grows.
    """

    def __init__(self, attention: SlidingWindowAttention, n_rows: int, like: Tensor) -> None:
        width = attention.out.in_features // attention.heads
        self.grows = attention.window is None
        n_slots = 16 if attention.window is None else attention.window + 1
        self.keys = like.new_zeros(n_rows, attention.heads, n_slots, width)
        self.values = torch.zeros_like(self.keys)
        self.n_seen = torch.zeros(n_rows, dtype=torch.long, device=like.device)

    def add(self, key: Tensor, value: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Add one position (b, H, d) of some rows; return their keys, values, and which are set.

        Their shapes: (b, H, slots, d) twice and (b, slots) bool.
        """
        at = self.n_seen[rows]
        if self.grows and int(at.max()) >= self.keys.shape[2]:
            more = (0, 0, 0, self.keys.shape[2])
            self.keys, self.values = pad(self.keys, more), pad(self.values, more)
        n_slots = self.keys.shape[2]
        self.keys[rows, :, at % n_slots] = key.to(self.keys.dtype)
        self.values[rows, :, at % n_slots] = value.to(self.values.dtype)
        self.n_seen[rows] = at + 1
        seen = torch.arange(n_slots, device=at.device) <= at[:, None]
        if len(rows) == len(self.n_seen):  # all of them, in order
            return self.keys, self.values, seen
        return self.keys[rows], self.values[rows], seen


def rotations(positions: Tensor, width: int) -> Tensor:
    """Return the rotary angles (..., width / 2) of positions (...), as complex units."""
    steps = torch.arange(0, width, 2, device=positions.device) / width
    angles = positions[..., None].float() * 10_000.0**-steps
    return torch.polar(torch.ones_like(angles), angles)


def rotated(x: Tensor, turns: Tensor) -> Tensor:
    """Return x (..., T, d) with its halves rotated as pairs, float32; turns: (..., T, d / 2)."""
    first, second = x.float().chunk(2, -1)
    cos, sin = turns.real, turns.imag
    return torch.cat([first * cos - second * sin, first * sin + second * cos], -1)


def windowed(q: Tensor, k: Tensor, v: Tensor, window: int | None) -> Tensor:
    """Return causal attention (B, H, T, d) over the last `window` keys and the position itself."""
    T = q.shape[2]
    if window is None or window >= T:
        return scaled_dot_product_attention(q, k, v, is_causal=True)
    if q.is_cuda and q.shape[-1] >= LEAST_WIDTH:
        return flexible(q, k, v, window, compiled_flex())
    if 2 * window >= T:
        return scaled_dot_product_attention(q, k, v, attn_mask=band(T, window, q.device))
    return blocked(q, k, v, window)


def blocked(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Return the same in O(T window): blocks of `window` queries read two blocks of keys."""
    B, H, T, d = q.shape
    n = -(-T // window)
    q, k, v = (
        pad(x, (0, 0, 0, n * window - T)).reshape(B * H, n, window, d) for x in (q, k, v)
    )  # (B H, n, w, d)
    k, v = (torch.cat([pad(x, (0, 0, 0, 0, 1, 0))[:, :-1], x], 2) for x in (k, v))
    mixed = scaled_dot_product_attention(q, k, v, attn_mask=block_band(n, window, q.device))
    return mixed.reshape(B, H, n * window, d)[:, :, :T]


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # a later backward pass may use the cached mask
def band(T: int, window: int, device: torch.device) -> Tensor:
    """Return which keys a query reads, (T, T) bool."""
    distance = torch.arange(T, device=device)[:, None] - torch.arange(T, device=device)
    return (distance >= 0) & (distance <= window)


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def block_band(n: int, window: int, device: torch.device) -> Tensor:
    """Return the same for n blocks of queries, (n, window, 2 window): previous and own block.

    The first block has no previous one.
    """
    query = torch.arange(window, device=device)[:, None]
    key = torch.arange(2 * window, device=device) - window
    mask = ((query >= key) & (query - key <= window)).repeat(n, 1, 1)
    mask[0, :, :window] = False
    return mask


def flexible(q: Tensor, k: Tensor, v: Tensor, window: int, attention: Any) -> Tensor:
    """Return the same by FlexAttention, whose mask is built once for each shape.

    Lengths, which vary between batches above the lowest level, are padded to a power of two, so
    that few shapes are compiled.
    """
    T = q.shape[2]
    filled = max(LEAST_LENGTH, 1 << (T - 1).bit_length())
    q, k, v = (pad(x, (0, 0, 0, filled - T)) for x in (q, k, v))
    mask = flex_mask(filled, window, q.device)
    return cast(Tensor, attention(q, k, v, block_mask=mask))[:, :, :T]


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def flex_mask(T: int, window: int, device: torch.device) -> Any:
    """Return FlexAttention's block mask of a causal window."""

    def reads(_b: Tensor, _h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) & (query - key <= window)

    return create_block_mask(reads, None, None, T, T, device=str(device))


@lru_cache(maxsize=1)
def compiled_flex() -> Any:
    """Return FlexAttention, compiled."""
    return torch.compile(flex_attention, dynamic=False)
