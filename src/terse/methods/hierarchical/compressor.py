"""One level up: cuts a sequence into segments and turns each into a few vectors with codes."""

import math
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor, nn

from terse.methods.hierarchical.blocks import Stack
from terse.methods.hierarchical.pooling import LearnedQueryAttention, StreamingPool
from terse.methods.hierarchical.quantizers import Quantised, quantizer_of, summed
from terse.methods.hierarchical.running_norm import RunningNorm
from terse.methods.hierarchical.segmentation import (
    Rule,
    StreamingSegmenter,
    margins,
    offsets,
    opened,
    segment_ids,
)
from terse.methods.hierarchical.settings import LevelSettings
from terse.methods.hierarchical.symbols import SymbolEmbedding, SymbolHead, bos

# Share of the entropies' spread by which thresholds move per step and factor e of excess segments.
GAIN = 0.3


@dataclass(frozen=True)
class Sequence:
    """The sequence that a level reads and its expander writes: T symbols of B rows, real first.

    digits: (B, T, G). mask: (B, T). vectors: (B, T - 2, W), those of the codes below; None for
    bytes.
    """

    digits: Tensor
    mask: Tensor
    vectors: Tensor | None = None


@dataclass(frozen=True)
class Making:
    """Values that exist only for a sequence that has just been compressed.

    states: (B, T, D) of the next-symbol LM. entropies: (B, T) nats. pooled: (B, N, L, D), before
    quantisation. loss: the quantiser's, summed.
    """

    states: Tensor
    entropies: Tensor
    pooled: Tensor
    loss: Tensor


@dataclass(frozen=True)
class Segments:
    """A sequence cut into up to N segments a row, and their codes.

    opens: (B, T), positions that begin a segment. n: (B,) segments of each row. codes: (B, N, G),
    as symbols. rows: (B, N, L, D), the codes' vectors.
    """

    sequence: Sequence
    opens: Tensor
    n: Tensor
    codes: Tensor
    rows: Tensor
    making: Making | None = None

    @property
    def segment(self) -> Tensor:
        """The segment of each position, (B, T)."""
        return segment_ids(self.opens)

    @property
    def offset(self) -> Tensor:
        """The offset of each position in its segment, (B, T)."""
        return offsets(self.opens)

    @property
    def real(self) -> Tensor:
        """Which segments are real, (B, N)."""
        return torch.arange(self.rows.shape[1], device=self.n.device) < self.n[:, None]

    @property
    def made(self) -> Making:
        """The values of a fresh compression; ValueError for segments from a cache."""
        if self.making is None:
            raise ValueError("these segments were read from a cache")
        return self.making


class ByteSegmentCompressor(nn.Module):
    """Shared blocks, then (a) a next-symbol LM, (b) blocks that are pooled by segment.

    K, G: codes and digits of its input symbols. below: width of their vectors; None for bytes,
    which it embeds. max_steps: of the training.
    """

    shift: Tensor

    def __init__(
        self, level: LevelSettings, K: int, G: int, below: int | None, max_steps: int
    ) -> None:
        super().__init__()
        self.level, self.K, self.G = level, K, G
        dim, heads, wide = level.dim, level.heads, level.encoder_ffn_dim_multiplier
        lm_window = level.lm_window or level.window
        window = level.compression_window or level.window
        self.embed = SymbolEmbedding(K if below is None else 0, G if below is None else 1, dim)
        self.read = None if below is None else nn.Linear(below, dim, bias=False)
        self.shared = Stack(level.num_shared_encoder_layers, dim, heads, level.window, wide)
        self.lm = Stack(level.n_lm_layers, dim, heads, lm_window, wide)
        self.head = SymbolHead(dim, K, G)
        self.compression = Stack(level.n_compression_layers, dim, heads, window, wide)
        self.norm = nn.RMSNorm(dim)
        self.pool = LearnedQueryAttention(dim, heads, level.num_queries)
        self.out_norm = RunningNorm(level.num_queries, dim)
        self.quantizer = quantizer_of(level, max_steps)
        self.register_buffer("shift", torch.zeros(()))
        self._seen: Tensor | None = None  # the controller's input, summed since the last step

    @property
    def rule(self) -> Rule:
        """The rule that opens segments, before the controller's shift."""
        at = self.level
        return Rule(at.entropy_delta, at.entropy_abs_threshold, at.max_segment_len)

    def entropy_parts(self) -> list[nn.Module]:
        """Return the parts that decide where segments begin."""
        parts = [self.embed, self.shared, self.lm, self.head]
        return parts if self.read is None else [*parts, self.read]

    def inputs(self, sequence: Sequence) -> Tensor:
        """Return the inputs (B, T, D) of the blocks."""
        first = sequence.digits[..., :1]
        if self.read is None or sequence.vectors is None:
            return self.embed(sequence.digits)
        reserved = first >= bos(self.K)  # (B, T, 1)
        special = self.embed((first - self.K).clamp(min=0))
        read = nn.functional.pad(self.read(sequence.vectors), (0, 0, 1, 1))
        return torch.where(reserved, special.to(read.dtype), read)

    def forward(self, sequence: Sequence) -> Segments:
        """Cut a sequence and quantise its segments."""
        shared = self.shared(self.inputs(sequence))
        states = self.lm(shared)  # (B, T, D)
        entropies = self.head.entropy(states)
        opens = opened(entropies, self.rule, self.shift)
        segment = segment_ids(opens)
        n = segment.masked_fill(~sequence.mask, -1).amax(1) + 1  # (B,)
        N = int(n.max())
        hidden = self.norm(self.compression(shared))
        raw = self.pool(hidden, segment, sequence.mask, N)  # (B, N, L, D)
        real = torch.arange(N, device=n.device) < n[:, None]
        pooled = self.out_norm(raw)
        quantised = self.quantizer(pooled, real[..., None].expand(pooled.shape[:3]))
        if self.training and torch.is_grad_enabled():
            self.out_norm.note(raw[real])
            self._count(n, sequence.mask, entropies)
        making = Making(states, entropies, pooled, quantised.loss)
        codes = quantised.codes.flatten(2)
        return Segments(sequence, opens, n, codes, quantised.vectors, making)

    def restored(self, sequence: Sequence, opens: Tensor, codes: Tensor) -> Segments:
        """Return the segments with boundaries (B, T) and codes (B, N, G) from a cache."""
        n = (opens & sequence.mask).sum(1)
        return Segments(sequence, opens, n, codes, self.rows_of(codes))

    def rows_of(self, codes: Tensor) -> Tensor:
        """Return the vectors (B, N, L, D) of codes (B, N, G)."""
        L = self.level.num_queries
        return self.quantizer.lookup(codes.unflatten(-1, (L, -1)))

    @torch.no_grad()
    def usage(self, segments: Segments) -> dict[str, Tensor]:
        """Return the perplexity of the segments' codes and that of the moving averages."""
        if not segments.codes.shape[-1]:
            return {}
        used = segments.codes[segments.real].view(-1, self.quantizer.digits)
        smoothed = self.quantizer.smoothed_usage()
        found = {"perplexity": self.quantizer.usage(used)}
        return found if smoothed is None else found | {"smoothed_perplexity": smoothed}

    def next_symbol_nats(self, segments: Segments) -> Tensor:
        """Return the LM's cost of each symbol but the first, (B, T - 1) nats."""
        return self.head.nats(segments.made.states[:, :-1], segments.sequence.digits[:, 1:])

    def _count(self, n: Tensor, mask: Tensor, entropies: Tensor) -> None:
        """Record segments, symbols, and how far entropies exceed the rule's thresholds.

        The number, sum and sum of squares of these margins are recorded, so that the distribution
        of rows over processes makes no difference.
        """
        if self.level.target_compression_ratio is None:
            return
        above = margins(entropies, self.rule)[:, 1:][mask[:, 1:]].double()  # without the first
        n_above = above.new_tensor(len(above))
        seen = torch.stack([n.sum(), mask.sum(), n_above, above.sum(), above.square().sum()])
        self._seen = seen if self._seen is None else self._seen + seen

    @torch.no_grad()
    def after_step(self) -> None:
        """Update the codebook, and move the thresholds towards the target ratio."""
        self.out_norm.after_step()
        self.quantizer.after_step()
        if self._seen is None:
            return
        segments, symbols, n, total, squares = summed(self._seen).tolist()
        self._seen, target = None, self.level.target_compression_ratio or 1.0
        mean = total / max(n, 1)
        spread = math.sqrt(max(0.0, squares / max(n, 1) - mean**2))
        if not float(self.shift):  # first step: assume normally distributed margins
            self.shift.fill_(mean + spread * NormalDist().inv_cdf(1 - min(target, 0.99)))
            return
        error = math.log(segments / symbols / target)
        self.shift.add_(GAIN * spread * max(-1.0, min(1.0, error)))


class CompressorStream:
    """A compressor that reads one symbol at a time, for B rows at their own pace.

    pools: whether segments are pooled and quantised, or only their boundaries found.
    """

    def __init__(self, compressor: ByteSegmentCompressor, n_rows: int, *, pools: bool) -> None:
        self.compressor = c = compressor
        like = c.norm.weight
        self.shared = c.shared.caches(n_rows, like)
        self.lm = c.lm.caches(n_rows, like)
        self.segmenter = StreamingSegmenter(c.rule, c.shift, n_rows)
        self.compression = c.compression.caches(n_rows, like) if pools else None
        self.pool = StreamingPool(c.pool, n_rows, like)

    def step(self, digits: Tensor, vectors: Tensor | None, rows: Tensor) -> Tensor:
        """Read the next symbol (b, G) of some rows; return whether it ends its segment, (b,).

        vectors: (b, W), the vector of the symbol if it is a code.
        """
        c = self.compressor
        x = self._inputs(digits, vectors)
        shared = c.shared.step(x, self.shared, rows)
        state = c.lm.step(shared, self.lm, rows)
        if self.compression is not None:
            hidden = c.norm(c.compression.step(shared, self.compression, rows))
            self.pool.add(hidden, rows)
        return self.segmenter.step(c.head.entropy(state), rows)

    def _inputs(self, digits: Tensor, vectors: Tensor | None) -> Tensor:
        c = self.compressor
        if c.read is None:
            return c.embed(digits)
        special = c.embed((digits[:, :1] - c.K).clamp(min=0))
        if vectors is None:
            return special
        return torch.where(digits[:, :1] >= c.K, special, c.read(vectors))

    def take(self, rows: Tensor) -> Quantised:
        """Return the codes of the segments that end here in some rows, (b, L, D)."""
        c = self.compressor
        pooled = c.out_norm(self.pool.take(rows))
        return c.quantizer(pooled, torch.ones_like(pooled[..., 0], dtype=torch.bool))
