"""Symbols of a sequence: bytes, or the codes of a segment, several digits each.

A symbol is G digits below K; the first may also be BOS (K), EOS (K + 1) or padding (K + 2). Bytes
are one digit with K = 256.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, log_softmax, softmax

N_RESERVED = 3  # BOS, EOS, padding
NO_DIGIT = -1  # the further digits of a reserved symbol


def bos(K: int) -> int:
    """Return the digit of BOS."""
    return K


def eos(K: int) -> int:
    """Return the digit of EOS."""
    return K + 1


def padding(K: int) -> int:
    """Return the digit of padding."""
    return K + 2


class SymbolEmbedding(nn.Module):
    """Symbols as vectors, the sums over their digits."""

    def __init__(self, K: int, G: int, dim: int) -> None:
        super().__init__()
        self.tables = nn.ModuleList(
            nn.Embedding(K + (N_RESERVED if g == 0 else 0), dim) for g in range(G)
        )

    def forward(self, digits: Tensor) -> Tensor:
        """Return (..., D) for digits (..., G)."""
        parts = [self.tables[0](digits[..., 0])]
        for g, table in enumerate(self.tables):
            if g:
                there = digits[..., g] != NO_DIGIT
                parts.append(table(digits[..., g].clamp(min=0)) * there[..., None])
        return torch.stack(parts).sum(0)


class SymbolHead(nn.Module):
    """A distribution over the next symbol, its digits one after the other.

    Where earlier digits are unknown (entropies, expectations), their expected embedding is used.
    """

    def __init__(self, dim: int, K: int, G: int) -> None:
        super().__init__()
        self.K, self.G = K, G
        self.norm = nn.RMSNorm(dim)
        self.heads = nn.ModuleList(
            nn.Linear(dim, K + (2 if g == 0 else 0), bias=False) for g in range(G)
        )
        self.before = nn.ModuleList(nn.Embedding(K, dim) for _ in range(G - 1))

    def logits(self, h: Tensor, digits: Tensor) -> list[Tensor]:
        """Return the logits of each digit given those before: (..., K + 2), then (..., K) each.

        h: (..., D). digits: (..., G), the symbols to predict.
        """
        found = [self.heads[0](self.norm(h))]
        for g in range(1, self.G):
            h = h + self.before[g - 1](digits[..., g - 1].clamp(0, self.K - 1))
            found.append(self.heads[g](self.norm(h)))
        return found

    def nats(self, h: Tensor, digits: Tensor) -> Tensor:
        """Return the cost (...) of each symbol in nats, float32, zero for padding.

        h: (..., D). digits: (..., G).
        """
        costs = []
        for g, logits in enumerate(self.logits(h, digits)):
            target = digits[..., g]
            counted = target < (padding(self.K) if g == 0 else self.K)
            target = target.masked_fill(~counted | (target == NO_DIGIT), -100)
            costs.append(
                cross_entropy(
                    logits.float().flatten(0, -2), target.flatten(), reduction="none"
                ).view(target.shape)
            )
        return torch.stack(costs).sum(0)

    @torch.no_grad()
    def entropy(self, h: Tensor) -> Tensor:
        """Return the entropy (...) of the next symbol, nats, float32, without a gradient."""
        total = torch.zeros(h.shape[:-1], device=h.device)
        for logits in self._in_expectation(h):
            logs = log_softmax(logits.float(), -1)
            total = total - (logs.exp() * logs).sum(-1)
        return total

    def shares(self, h: Tensor) -> list[Tensor]:
        """Return the share (..., K) of each digit's codes, without reserved symbols."""
        return [softmax(x.float()[..., : self.K], -1) for x in self._in_expectation(h)]

    def _in_expectation(self, h: Tensor) -> list[Tensor]:
        found = [self.heads[0](self.norm(h))]
        for g in range(1, self.G):
            shares = softmax(found[-1].float()[..., : self.K], -1).to(h.dtype)
            h = h + shares @ self.before[g - 1].weight  # type: ignore[operator]
            found.append(self.heads[g](self.norm(h)))
        return found

    def choose(self, h: Tensor, pick: Callable[[Tensor], Tensor]) -> Tensor:
        """Return symbols (b, G), each digit picked from its logits (b, n) given those before."""
        digits: list[Tensor] = []
        logits = self.heads[0](self.norm(h))
        for g in range(self.G):
            digits.append(pick(logits))
            if g + 1 < self.G:
                h = h + self.before[g](digits[-1].clamp(0, self.K - 1))
                logits = self.heads[g + 1](self.norm(h))
        chosen = torch.stack(digits, -1)
        reserved = chosen[:, :1] >= self.K
        chosen[:, 1:] = chosen[:, 1:].masked_fill(reserved, NO_DIGIT)
        return chosen


def framed(codes: Tensor, n: Tensor, K: int) -> tuple[Tensor, Tensor]:
    """Return sequences [BOS, n symbols, EOS, padding] (B, N + 2, G), and their mask (B, N + 2).

    codes: (B, N, G). n: (B,), symbols of each row, up to N.
    """
    B, N, G = codes.shape
    places = torch.arange(N + 2, device=codes.device)
    digits = codes.new_full((B, N + 2, G), NO_DIGIT)
    digits[..., 0] = padding(K)
    inside = (places >= 1) & (places <= n[:, None])
    digits[:, 1:-1] = torch.where(inside[:, 1:-1, None], codes, digits[:, 1:-1])
    digits[:, 0, 0] = bos(K)
    digits[torch.arange(B, device=n.device), n + 1, 0] = eos(K)
    return digits, places <= n[:, None] + 1
