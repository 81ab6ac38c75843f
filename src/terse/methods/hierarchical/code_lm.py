"""The language model on the codes of the last level."""

import torch
from torch import Tensor, nn

from terse.methods.hierarchical.attention import KeyValueCache
from terse.methods.hierarchical.blocks import Stack
from terse.methods.hierarchical.quantizers import Quantizer
from terse.methods.hierarchical.settings import LevelSettings, TopSettings
from terse.methods.hierarchical.symbols import SymbolHead, framed


class CodeSequenceTransformer(nn.Module):
    """Causal over [code BOS, segments]: state j has read j segments and predicts the next, or EOS.

    A segment is one position: its L vectors are read together and its codes predicted one by one.
    Continuous: the vectors themselves are predicted, with squared error.
    """

    def __init__(self, top: TopSettings, level: LevelSettings) -> None:
        super().__init__()
        self.settings, self.level = top, level
        width = level.num_queries * level.dim
        self.read = nn.Linear(width, top.dim, bias=False)
        self.start = nn.Parameter(torch.randn(top.dim) * 0.02)
        self.stack = Stack(top.num_layers, top.dim, top.num_heads, None, top.ffn_dim_multiplier)
        K, G = level.codebook_size, level.n_digits
        has_codes = G > 0 and top.ce_weight > 0
        self.head = SymbolHead(top.dim, K, G) if has_codes else None
        self.norm = nn.RMSNorm(top.dim) if top.continuous else None
        self.predict = nn.Linear(top.dim, width) if top.continuous else None

    def forward(self, rows: Tensor) -> Tensor:
        """Return states (B, N + 1, D) for code rows (B, N, L, W)."""
        x = self.read(rows.flatten(2))
        start = self.start.to(x.dtype).expand(len(x), 1, -1)
        return self.stack(torch.cat([start, x], 1))

    def nats(self, states: Tensor, codes: Tensor, n: Tensor) -> Tensor:
        """Return the cost of each segment and then EOS: (B, N + 1) nats, zero for padding.

        codes: (B, N, G). n: (B,) segments.
        """
        if self.head is None:
            raise ValueError("this top LM predicts no codes")
        return self.head.nats(states, framed(codes, n, self.level.codebook_size)[0][:, 1:])

    def squared_error(self, states: Tensor, rows: Tensor, real: Tensor) -> Tensor:
        """Return the error of each predicted segment, mean over width: (B, N), zero for padding."""
        target = rows.detach().flatten(2)
        error = (self._vectors(states[:, :-1]) - target).square().mean(-1)
        return error.masked_fill(~real, 0.0)

    def _vectors(self, states: Tensor) -> Tensor:
        if self.norm is None or self.predict is None:
            raise ValueError("this top LM predicts no vectors")
        return self.predict(self.norm(states)).float()

    def predicted(self, states: Tensor, quantizer: Quantizer) -> Tensor:
        """Return the expected next row (..., L, W) of states (..., D)."""
        L = self.level.num_queries
        if self.predict is not None:
            return self._vectors(states).unflatten(-1, (L, -1))
        if self.head is None:
            raise ValueError("this top LM predicts neither codes nor vectors")
        return expected_rows(self.head, states, quantizer, L)


def expected_rows(head: SymbolHead, states: Tensor, quantizer: Quantizer, L: int) -> Tensor:
    """Return the mean rows (..., L, W) under a distribution over symbols of L vectors each."""
    shares, d = head.shares(states), quantizer.digits
    return torch.stack([quantizer.expected(shares[i * d : (i + 1) * d]) for i in range(L)], -2)


class CodeSequenceStream:
    """A top LM that reads one segment at a time, for B rows at their own pace."""

    def __init__(self, code_lm: CodeSequenceTransformer, n_rows: int) -> None:
        self.code_lm = code_lm
        self.caches: list[KeyValueCache] = code_lm.stack.caches(n_rows, code_lm.start)

    def begin(self, rows: Tensor) -> Tensor:
        """Return the states (b, D) before the first segment."""
        return self.code_lm.stack.step(self.code_lm.start.expand(len(rows), -1), self.caches, rows)

    def step(self, vectors: Tensor, rows: Tensor) -> Tensor:
        """Return the states (b, D) after the next segments (b, L, W) of some rows."""
        return self.code_lm.stack.step(self.code_lm.read(vectors.flatten(1)), self.caches, rows)
