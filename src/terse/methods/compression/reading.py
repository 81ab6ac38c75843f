"""The method's way of reading contexts in a frontier: c vectors for each k tokens."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from terse.corpora.tokenizers import load_tokenizer
from terse.errors import TerseError
from terse.evaluation.frontier.held import States
from terse.evaluation.frontier.reader import CausalReader, CausalReading
from terse.evaluation.frontier.reading import Cost
from terse.evaluation.frontier.windows import Window
from terse.methods.compression.cache_memory import MemoryPrefix
from terse.methods.compression.cost import ArmCosts
from terse.methods.compression.method import Compression
from terse.methods.compression.model import Compressor, Prefix
from terse.training.method import Method


class Compressed(CausalReading):
    """A context of any length, block by block: the first block takes what the others leave over.

    The vectors, or keys and values, of all blocks precede the cue and the target.
    """

    fixed = True

    def __init__(self, model: Compressor, reader: CausalReader, overlap: int) -> None:
        self.model, self.reader, self.overlap = model, reader, overlap
        self.positions = "kept" if model.cached else "vectors"
        self.costs = ArmCosts.of(model)

    def read(self, window: Window, rates: Sequence[float]) -> list[Cost]:
        tokens, o = self.reader.tokens(window), self.overlap
        if o > tokens.L:
            raise TerseError(f"a context of {tokens.L} tokens is shorter than seq_overlap, {o}")
        cached = self.model.cached
        Z, sizes, states = (self._memory if cached else self._vectors)(tokens.context)
        target = torch.cat([tokens.context[tokens.L - o :], tokens.target])[None]
        prefix = self.model.prefix(Z, self.model.cue)
        self._check_length(prefix, target.shape[1])
        logits = self.model.read(prefix, target, torch.ones_like(target))[0, o:]  # (m, V)
        nats = nn.functional.cross_entropy(logits.float(), tokens.target, reduction="none")
        dimensions = self.dimensions(slice(Z.shape[1]), states)
        held, c = Z.shape[1], self.model.settings.n_cmps
        n = 1 + o + tokens.m - 1  # the cue, the overlap, the target without its last token
        spans = torch.tensor(sizes) + c + self.model.settings.sep_cmpr + cached
        flops = self.costs.making.total(spans, c).sum() + held * self.costs.vector
        if cached:
            flops = flops + self.costs.of_memory(n, tokens.m, held)
        else:
            n += held
            flops = flops + self.costs.reading.total(n, tokens.m)
        return [
            self.reader.cost(
                held / tokens.L, float(nats.double().sum()), tokens, held=held,
                computed=n + cached + (float(spans.sum()) if self.model.layer != 0 else 0.0),
                flops=float(flops),
                dimensions=dimensions,
            )
        ]  # fmt: skip

    def _check_length(self, prefix: Prefix, n: int) -> None:
        """Raise TerseError if a memory and n tokens after it need more positions than there are."""
        limit = self.reader.limit
        if isinstance(prefix, MemoryPrefix) and limit and prefix.first + n > limit:
            raise TerseError(
                f"the vectors of a window and its target end at position {prefix.first + n}, but "
                f"the reader has {limit}: lower context_bytes or cmp_len"
            )

    def _memory(self, context: Tensor) -> tuple[Tensor, list[int], States | None]:
        """Return keys and values (1, blocks x c, E), the tokens of each block, and their states."""
        s, k = self.model.settings, self.model.settings.cmp_len
        n_blocks = -(-len(context) // k)
        first = len(context) - (n_blocks - 1) * k
        blocks = context.split([first, *[k] * (n_blocks - 1)])
        parts, seen = [], []  # seen: the states of each pass over SEP and CMP
        for i, block in enumerate(blocks):
            before = torch.tensor([i * s.n_cmps], device=block.device)
            parts.append(self.model.memory_of(block[None], torch.ones_like(block[None]), before))
            if self.held is not None:
                seen.append(self.held.states())
        states = None
        if seen:
            states = {at: torch.cat([one[at][-s.n_cmps :] for one in seen]) for at in seen[0]}
        return torch.cat(parts, 1), [len(block) for block in blocks], states

    def _vectors(self, context: Tensor) -> tuple[Tensor, list[int], None]:
        """Return the vectors (1, blocks x c, E) of a context (L,), and the tokens of each block."""
        s, L = self.model.settings, len(context)
        k, n_blocks = s.cmp_len, -(-L // s.cmp_len)
        n_rows = -(-n_blocks // s.n_spans)
        width = n_rows * s.n_spans * k
        rows = torch.cat([context.new_zeros(width - L), context]).reshape(n_rows, -1)
        mask = torch.arange(width, device=context.device).ge(width - L).long().reshape(n_rows, -1)
        Z = self.model.compress(rows, mask).flatten(0, 1)  # (blocks x c, E), those of padding first
        sizes = [L - (n_blocks - 1) * k, *([k] * (n_blocks - 1))]
        return Z[-n_blocks * s.n_cmps :][None], sizes, None


def reading(method: Method, model: nn.Module, device: str) -> Compressed:
    """Return the reading of a loaded run."""
    assert isinstance(method, Compression)
    placed = method.placed(model, device)
    tokenizer = load_tokenizer(method.required(method.inputs.base, "base"))
    return Compressed(placed, CausalReader(placed.lm, tokenizer), method.lengths.overlap)
