"""The method's way of reading contexts in a frontier: c vectors for each k tokens."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from terse.corpora.tokenizers import load_tokenizer
from terse.errors import TerseError
from terse.evaluation.frontier.reader import CausalReader, CausalReading
from terse.evaluation.frontier.reading import Cost
from terse.evaluation.frontier.windows import Window
from terse.methods.compression.cost import ArmCosts
from terse.methods.compression.method import Compression
from terse.methods.compression.model import Compressor
from terse.training.method import Method


class Compressed(CausalReading):
    """A context of any length, block by block: the first block takes what the others leave over.

    The vectors of all blocks are read in a row, then the cue, then the target.
    """

    positions = "vectors"
    fixed = True

    def __init__(self, model: Compressor, reader: CausalReader, overlap: int) -> None:
        self.model, self.reader, self.overlap = model, reader, overlap
        self.costs = ArmCosts.of(model)

    def read(self, window: Window, rates: Sequence[float]) -> list[Cost]:
        tokens, o = self.reader.tokens(window), self.overlap
        if o > tokens.L:
            raise TerseError(f"a context of {tokens.L} tokens is shorter than seq_overlap, {o}")
        Z, sizes = self._vectors(tokens.context)
        target = torch.cat([tokens.context[tokens.L - o :], tokens.target])[None]
        logits = self.model.read(
            self.model.prefix(Z, self.model.cue), target, torch.ones_like(target)
        )[0, o:]  # (m, V)
        nats = nn.functional.cross_entropy(logits.float(), tokens.target, reduction="none")
        dimensions = self.dimensions(slice(Z.shape[1]))
        held, c = Z.shape[1], self.model.settings.n_cmps
        n = held + 1 + o + tokens.m - 1  # the cue, the overlap, the target without its last token
        spans = torch.tensor(sizes) + c + self.model.settings.sep_cmpr
        flops = self.costs.making.total(spans, c).sum() + held * self.costs.vector
        return [
            self.reader.cost(
                held / tokens.L, float(nats.double().sum()), tokens, held=held,
                computed=n + (float(spans.sum()) if self.model.layer != 0 else 0.0),
                flops=float(flops) + float(self.costs.reading.total(n, tokens.m)),
                dimensions=dimensions,
            )
        ]  # fmt: skip

    def _vectors(self, context: Tensor) -> tuple[Tensor, list[int]]:
        """Return the vectors (1, blocks x c, E) of a context (L,), and the tokens of each block."""
        s, L = self.model.settings, len(context)
        k, n_blocks = s.cmp_len, -(-L // s.cmp_len)
        n_rows = -(-n_blocks // s.n_spans)
        width = n_rows * s.n_spans * k
        rows = torch.cat([context.new_zeros(width - L), context]).reshape(n_rows, -1)
        mask = torch.arange(width, device=context.device).ge(width - L).long().reshape(n_rows, -1)
        Z = self.model.compress(rows, mask).flatten(0, 1)  # (blocks x c, E), those of padding first
        sizes = [L - (n_blocks - 1) * k, *([k] * (n_blocks - 1))]
        return Z[-n_blocks * s.n_cmps :][None], sizes


def reading(method: Method, model: nn.Module, device: str) -> Compressed:
    """Return the reading of a loaded run."""
    assert isinstance(method, Compression)
    placed = method.placed(model, device)
    tokenizer = load_tokenizer(method.required(method.inputs.base, "base"))
    return Compressed(placed, CausalReader(placed.lm, tokenizer), method.lengths.overlap)
