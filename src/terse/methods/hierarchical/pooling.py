"""Segments as vectors: learned queries attend to the positions of each segment."""

import torch
from torch import Tensor, nn


class LearnedQueryAttention(nn.Module):
    """L queries, shared by all segments, attend to the positions of one segment each.

    A query does not depend on the segment, so a position's score is a linear function of it: the
    softmax within segments and the weighted sum cost O(T D), without an (N L, T) matrix.
    """

    def __init__(self, dim: int, heads: int, num_queries: int) -> None:
        super().__init__()
        self.heads, self.num_queries = heads, num_queries
        self.score = nn.Linear(dim, num_queries * heads, bias=False)
        self.value = nn.Linear(dim, dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor, segment: Tensor, mask: Tensor, n: int) -> Tensor:
        """Return the vectors (B, n, L, D) of n segments; for an empty one, `out` of zero.

        x: (B, T, D). segment: (B, T), below n where mask (B, T) is true; others are ignored.
        """
        B = len(x)
        scores, values = self._read(x)  # (B, T, L, H), (B, T, H, d)
        rows = torch.arange(B, device=x.device)[:, None] * (n + 1)
        place = (torch.where(mask, segment, n) + rows).flatten()  # (B T,)
        weights = self._softmax(scores.flatten(0, 1), place, B * (n + 1))  # (B T, L, H)
        spread = weights[..., None] * values.flatten(0, 1)[:, None]  # (B T, L, H, d)
        sums = spread.new_zeros(B * (n + 1), *spread.shape[1:]).index_add(0, place, spread)
        pooled = sums.flatten(2).unflatten(0, (B, n + 1))[:, :n]  # (B, n, L, D)
        return self.out(pooled.to(x.dtype))

    def _read(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scores = self.score(x).float().unflatten(-1, (self.num_queries, self.heads))
        return scores, self.value(x).float().unflatten(-1, (self.heads, -1))

    @staticmethod
    def _softmax(scores: Tensor, place: Tensor, n_places: int) -> Tensor:
        """Return the softmax of scores (M, L, H) over those with the same place (M,)."""
        shape = (n_places, *scores.shape[1:])
        index = place[:, None, None].expand_as(scores)
        most = scores.new_full(shape, -torch.inf)
        most = most.scatter_reduce(0, index, scores.detach(), "amax")
        powers = (scores - most.index_select(0, place)).exp()
        sums = powers.new_zeros(shape).index_add(0, place, powers)
        return powers / sums.index_select(0, place)


class StreamingPool:
    """The same, one position at a time, for B rows whose segments end at different times."""

    def __init__(self, attention: LearnedQueryAttention, n_rows: int, like: Tensor) -> None:
        self.attention = attention
        L, H = attention.num_queries, attention.heads
        d = attention.value.out_features // H
        self.most = torch.full((n_rows, L, H), -torch.inf, device=like.device)
        self.total = torch.zeros(n_rows, L, H, device=like.device)
        self.sums = torch.zeros(n_rows, L, H, d, device=like.device)

    def add(self, x: Tensor, rows: Tensor) -> None:
        """Add the next position (b, D) of some rows."""
        scores, values = self.attention._read(x)  # (b, L, H), (b, H, d)
        most = torch.maximum(self.most[rows], scores)
        shrink, power = (self.most[rows] - most).exp(), (scores - most).exp()
        self.total[rows] = self.total[rows] * shrink + power
        self.sums[rows] = self.sums[rows] * shrink[..., None] + power[..., None] * values[:, None]
        self.most[rows] = most

    def take(self, rows: Tensor) -> Tensor:
        """Return the vectors (b, L, D) of the rows' segments, which end here."""
        pooled = (self.sums[rows] / self.total[rows][..., None]).flatten(2)
        self.most[rows] = -torch.inf
        self.total[rows] = 0.0
        self.sums[rows] = 0.0
        return self.attention.out(pooled)
