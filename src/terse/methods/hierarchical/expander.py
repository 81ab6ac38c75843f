"""One level down: decodes code rows into the sequence that they encode, symbol by symbol."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from terse.methods.hierarchical.attention import KeyValueCache, SlidingWindowAttention
from terse.methods.hierarchical.blocks import FeedForward, Stack
from terse.methods.hierarchical.settings import HierarchicalSettings
from terse.methods.hierarchical.symbols import SymbolEmbedding, SymbolHead

N_OFFSETS = 32  # distinct offsets in a segment


class AlignedAttention(nn.Module):
    """Each position reads the rows of its own segment and of the `lookback` segments before it.

    Aligned by segment: row seg(t) - k for k = 0..lookback, L vectors each.
    """

    def __init__(self, dim: int, heads: int, lookback: int, num_queries: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(dim, dim, bias=False)
        self.key_value = nn.Linear(dim, 2 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)
        self.bias = nn.Parameter(torch.zeros(heads, lookback + 1, num_queries))

    def forward(self, x: Tensor, keys_values: Tensor, there: Tensor) -> Tensor:
        """Return (..., D) for x (..., D).

        keys_values: (..., lookback + 1, L, 2 D), `key_value` of each position's rows, own first.
        there: which of them exist, (..., lookback + 1).
        """
        d = x.shape[-1] // self.heads
        q = self.query(x).unflatten(-1, (self.heads, d)) * d**-0.5  # (..., H, d)
        k, v = keys_values.unflatten(-1, (2, self.heads, d)).unbind(-3)
        scores = torch.einsum("...hd,...klhd->...hkl", q, k) + self.bias
        scores = scores.masked_fill(~there[..., None, :, None], -torch.inf)
        shares = scores.flatten(-2).softmax(-1).view_as(scores)
        return self.out(torch.einsum("...hkl,...klhd->...hd", shares, v).flatten(-2))


class DecoderBlock(nn.Module):
    """Attention to earlier symbols, to the rows of the segment, and an MLP."""

    def __init__(
        self, dim: int, heads: int, window: int, multiplier: float, rows: AlignedAttention | None
    ) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(dim)
        self.attention = SlidingWindowAttention(dim, heads, window)
        self.rows_norm = nn.RMSNorm(dim) if rows is not None else None
        self.rows = rows
        self.mlp_norm = nn.RMSNorm(dim)
        self.mlp = FeedForward(dim, multiplier)

    def forward(self, x: Tensor, memory: "Memory") -> Tensor:
        """Return (B, T, D) for (B, T, D)."""
        x = x + self.attention(self.attention_norm(x))
        if self.rows is not None and self.rows_norm is not None:
            keys_values = memory.read_by(self.rows.key_value)
            x = x + self.rows(self.rows_norm(x), keys_values, memory.there)
        return x + self.mlp(self.mlp_norm(x))

    def step(
        self, x: Tensor, memory: Tensor, there: Tensor, cache: KeyValueCache, at: Tensor
    ) -> Tensor:
        """Return (b, D) for the next positions x (b, D) of the rows `at` of a cache.

        memory: (b, lookback + 1, L, D). there: (b, lookback + 1).
        """
        x = x + self.attention.step(self.attention_norm(x), cache, at)
        if self.rows is not None and self.rows_norm is not None:
            keys_values = self.rows.key_value(memory)
            x = x + self.rows(self.rows_norm(x), keys_values, there)
        return x + self.mlp(self.mlp_norm(x))


class Memory:
    """The encoded rows that each position reads: of its segment and of `lookback` before it.

    own, past: (B, N, L, D), the rows of a position's own segment and those of earlier ones; the
    same tensor if they are equal. segment: (B, T). there: (B, T, lookback + 1).
    """

    def __init__(self, own: Tensor, past: Tensor, segment: Tensor, lookback: int) -> None:
        self.own, self.past, self.lookback = own, past, lookback
        B, N = own.shape[:2]
        index = segment[..., None].clamp(max=N - 1) - torch.arange(
            lookback + 1, device=own.device
        )  # (B, T, lookback + 1)
        self.there = index >= 0
        first = torch.arange(B, device=own.device)[:, None, None] * N
        self.flat = index.clamp(min=0) + first

    def read_by(self, projection: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Return each position's rows (B, T, lookback + 1, L, D), projected before the gather."""
        own = self.own if projection is None else projection(self.own)
        if self.past is self.own:
            return self._picked(own, self.flat)
        past = self.past if projection is None else projection(self.past)
        parts = self._picked(own, self.flat[..., :1]), self._picked(past, self.flat[..., 1:])
        return torch.cat(parts, 2)

    @staticmethod
    def _picked(rows: Tensor, flat: Tensor) -> Tensor:
        chosen = rows.flatten(0, 1).index_select(0, flat.flatten())
        return chosen.unflatten(0, flat.shape)


class CodeExpander(nn.Module):
    """Predicts symbol t + 1 of a sequence from symbols up to t and the rows of its segment.

    Rows are the straight-through vectors of the codes, so reconstruction trains the compressor.
    They are read by cross-attention (and blocks over the rows), or, decoder-only, added to the
    inputs. K, G: codes and digits of the sequence that it writes.
    """

    def __init__(self, settings: HierarchicalSettings, i: int, K: int, G: int) -> None:
        super().__init__()
        s, level = settings, settings.compressor_level_configs[i]
        dim, heads = level.expander_dim(s.expander_dim_scale), s.expander_heads(level)
        wide = level.encoder_ffn_dim_multiplier
        self.lookback, self.num_queries = s.expander_lookback, level.num_queries
        self.embed = SymbolEmbedding(K, G, dim)
        self.place = nn.Embedding(N_OFFSETS, dim)
        self.read = nn.Linear(level.dim, dim, bias=False)
        self.encoder = Stack(s.expander_num_enc_layers, dim, heads, level.window, wide)
        self.mix = None
        if s.use_decoder_only_expander:
            self.mix = nn.Linear((s.expander_lookback + 1) * level.num_queries * dim, dim)
        self.blocks = nn.ModuleList(
            DecoderBlock(dim, heads, level.window, wide, self._aligned(dim, heads))
            for _ in range(s.expander_num_dec_layers)
        )
        self.head = SymbolHead(dim, K, G)

    def _aligned(self, dim: int, heads: int) -> AlignedAttention | None:
        if self.mix is not None:
            return None
        return AlignedAttention(dim, heads, self.lookback, self.num_queries)

    def encode(self, rows: Tensor) -> Tensor:
        """Return code rows (B, N, L, W) as the decoder reads them, (B, N, L, D); it is causal."""
        x = self.read(rows)
        if not self.encoder.blocks:
            return x
        return self.encoder(x.flatten(1, 2)).view_as(x)

    def forward(
        self,
        digits: Tensor,
        segment: Tensor,
        offset: Tensor,
        own: Tensor,
        past: Tensor | None = None,
    ) -> Tensor:
        """Return states (B, T - 1, D) that predict symbols 1..T-1.

        digits: (B, T, G). segment, offset: (B, T), of each position. own: (B, N, L, W), the rows of
        the segments. past: the rows read for earlier segments, `own` if None.
        """
        encoded = self.encode(own)
        earlier = encoded if past is None else self.encode(past)
        memory = Memory(encoded, earlier, segment[:, 1:], self.lookback)
        x = self.embed(digits[:, :-1]) + self._place(offset[:, 1:])
        if self.mix is not None:
            x = x + self._mixed(memory.read_by(), memory.there)
        for block in self.blocks:
            x = block(x, memory)
        return x

    def _place(self, offset: Tensor) -> Tensor:
        return self.place(offset.clamp(max=N_OFFSETS - 1))

    def _mixed(self, memory: Tensor, there: Tensor) -> Tensor:
        """Return the sum that existing rows (..., lookback + 1, L, D) add to the inputs."""
        if self.mix is None:
            raise ValueError("only a decoder-only expander adds rows to its inputs")
        return self.mix((memory * there[..., None, None]).flatten(-3))


class ExpanderStream:
    """An expander that writes one symbol at a time, for B rows at their own pace."""

    def __init__(self, expander: CodeExpander, n_rows: int) -> None:
        self.expander = e = expander
        like = e.head.norm.weight
        self.caches = [KeyValueCache(b.attention, n_rows, like) for b in e.blocks]  # type: ignore[union-attr]
        self.own_caches = e.encoder.caches(n_rows, like)
        self.past_caches = e.encoder.caches(n_rows, like)
        L, D = e.num_queries, e.head.norm.weight.shape[0]
        self.memory = like.new_zeros(n_rows, e.lookback + 1, L, D)
        self.n_rows_seen = torch.zeros(n_rows, dtype=torch.long, device=like.device)
        self.offset = torch.zeros(n_rows, dtype=torch.long, device=like.device)

    def begin(self, own: Tensor, rows: Tensor) -> None:
        """Begin the first segment of some rows, whose first symbol is BOS."""
        self.open(own, rows)
        self.offset[rows] = 1

    def open(self, own: Tensor, rows: Tensor) -> None:
        """Begin the next segment of some rows; own: (b, L, W), its row as it reads it."""
        self.memory[rows, 0] = self._encoded(own, self.own_caches, rows)
        self.n_rows_seen[rows] += 1
        self.offset[rows] = 0

    def close(self, true: Tensor, rows: Tensor) -> None:
        """End a segment; true: (b, L, W), its row as later segments read it."""
        lookback = self.expander.lookback
        encoded = self._encoded(true, self.past_caches, rows)
        if lookback > 1:
            self.memory[rows, 2:] = self.memory[rows, 1:-1].clone()
        if lookback:
            self.memory[rows, 1] = encoded

    def _encoded(self, row: Tensor, caches: list[KeyValueCache], rows: Tensor) -> Tensor:
        e = self.expander
        x = e.read(row)  # (b, L, D)
        if not e.encoder.blocks:
            return x
        steps = [e.encoder.step(x[:, i], caches, rows) for i in range(x.shape[1])]
        return torch.stack(steps, 1)

    def step(self, digits: Tensor, rows: Tensor) -> Tensor:
        """Return states (b, D) that predict the symbol after digits (b, G), in some rows."""
        e = self.expander
        memory = self.memory[rows]
        lags = torch.arange(e.lookback + 1, device=rows.device)
        there = lags < self.n_rows_seen[rows][:, None]
        x = e.embed(digits) + e._place(self.offset[rows])
        if e.mix is not None:
            x = x + e._mixed(memory, there)
        for block, cache in zip(e.blocks, self.caches, strict=True):
            x = block.step(x, memory, there, cache, rows)  # type: ignore[operator]
        self.offset[rows] += 1
        return x
