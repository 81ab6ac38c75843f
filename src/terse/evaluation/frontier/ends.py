"""The two ends of the frontier: all of the context, and none of it."""

from collections.abc import Sequence

from terse.errors import TerseError
from terse.evaluation.frontier.reader import CausalReader, CausalReading, Tokens
from terse.evaluation.frontier.reading import Cost
from terse.evaluation.frontier.windows import Window


class Full(CausalReading):
    """All of the context: its keys and values; without a whole cache, one pass with the target."""

    fixed = True

    def __init__(self, reader: CausalReader) -> None:
        self.reader = reader

    def read(self, window: Window, rates: Sequence[float]) -> list[Cost]:
        reader, tokens = self.reader, self.reader.tokens(window)
        L, m = tokens.L, tokens.m
        try:
            whole = reader.prefill(tokens)
            dimensions = self.dimensions(slice(L))
            nats = reader.read_after(whole, tokens, L)
            flops = float(reader.flops.total(L)) + reader.after_flops(L, m)
        except TerseError:  # it holds no whole cache
            nats = reader.read_anew(tokens.context, tokens.target)
            dimensions = self.dimensions(slice(1, L + 1))
            flops = reader.anew_flops(L, m)
        return [
            reader.cost(
                1.0, nats, tokens, held=L, computed=L + m, flops=flops, dimensions=dimensions
            )
        ]


class Nothing(CausalReading):
    """The start token alone."""

    fixed = True

    def __init__(self, reader: CausalReader) -> None:
        self.reader = reader

    def read(self, window: Window, rates: Sequence[float]) -> list[Cost]:
        return [without_context(self.reader, self.reader.tokens(window))]


def without_context(reader: CausalReader, tokens: Tokens) -> Cost:
    """Return the cost of a target that is read after the start token alone."""
    nats = reader.read_anew(tokens.context[:0], tokens.target)
    flops = reader.anew_flops(0, tokens.m)
    return reader.cost(0.0, nats, tokens, held=0, computed=tokens.m, flops=flops)
