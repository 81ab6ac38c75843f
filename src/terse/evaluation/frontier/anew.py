"""Reading the kept tokens of a context anew, without the dropped ones."""

from collections.abc import Sequence

import torch

from terse.evaluation.frontier.choices import Choice
from terse.evaluation.frontier.ends import without_context
from terse.evaluation.frontier.reader import CausalReader, CausalReading, Tokens
from terse.evaluation.frontier.reading import Cost, at_rate, n_left
from terse.evaluation.frontier.windows import Window


class Anew(CausalReading):
    """The kept tokens are read in one pass with the target.

    kept: at their original positions, with gaps, rather than at dense ones.
    """

    def __init__(self, reader: CausalReader, choice: Choice, *, kept: bool = False) -> None:
        self.reader, self.choice, self.kept = reader, choice, kept
        self.positions, self.note = "kept" if kept else "dense", choice.note

    def read(self, window: Window, rates: Sequence[float]) -> list[Cost]:
        tokens = self.reader.tokens(window)
        seen = self.choice.look(self.reader, tokens, window)
        return [self._at(rate, seen, tokens) for rate in rates]

    def _at(self, rate: float, seen: torch.Tensor, tokens: Tokens) -> Cost:
        n, m = n_left(rate, tokens.L), tokens.m
        if n == 0:
            return at_rate(without_context(self.reader, tokens), rate)
        chosen = self.choice.take(seen, self.reader, tokens, n)
        n = len(chosen.tokens)
        positions = None
        if self.kept:
            after = torch.arange(tokens.L, tokens.L + m, device=tokens.context.device)
            positions = 1 + torch.cat([chosen.tokens, after])
        nats = self.reader.read_anew(tokens.context[chosen.tokens], tokens.target, positions)
        return self.reader.cost(
            rate, nats, tokens, held=n, computed=chosen.computed + n + m,
            flops=chosen.flops + self.reader.anew_flops(n, m),
            dimensions=self.dimensions(slice(1, n + 1)),  # after the start token
        )  # fmt: skip
