"""The method's way of reading contexts in a frontier: what its mask keeps."""

from collections.abc import Sequence

import torch
from torch import nn

from terse.evaluation.frontier.ends import without_context
from terse.evaluation.frontier.reader import CausalReader, CausalReading, Tokens
from terse.evaluation.frontier.reading import Cost, at_rate
from terse.evaluation.frontier.windows import Window
from terse.methods.forgetting.cost import mask_flops
from terse.methods.forgetting.method import Forgetting
from terse.methods.forgetting.model import Forgetter
from terse.methods.forgetting.packing import Rows
from terse.training.method import Method


class Forgotten(CausalReading):
    """The mask decides on the context before the target, which is read after what is kept.

    Its share of dropped tokens is of those that it may drop, so slightly more than the rate is
    held. A mask that knows one share only has that one.
    """

    def __init__(self, model: Forgetter, reader: CausalReader) -> None:
        self.model, self.reader = model, reader
        s = model.settings
        self.positions = "kept" if s.positions == "original" else "dense"
        self.fixed = not s.any_rate
        self._deciding = mask_flops(model.mask, str(reader.lm.device))

    def read(self, window: Window, rates: Sequence[float]) -> list[Cost]:
        tokens = self.reader.tokens(window)
        shares = [1 - self.model.settings.forget_p] if self.fixed else rates
        return [self._at(rate, tokens) for rate in shares]

    def _at(self, rate: float, tokens: Tokens) -> Cost:
        if rate == 0:
            return at_rate(without_context(self.reader, tokens), rate)
        L, m = tokens.L, tokens.m
        start = tokens.context.new_tensor([self.reader.start])
        ids = torch.cat([start, tokens.context, tokens.target])[None]
        real = torch.ones_like(ids, dtype=torch.bool)
        rows = Rows(ids, real, torch.arange(L + m + 1, device=ids.device)[None] > L)
        keep = self.model.decisions(rows, "prefix", 1 - rate)
        nats = self.model.score(rows, keep, "prefix").nats.double().sum()
        n = int((keep & rows.is_context).sum()) - 1  # without the start token
        return self.reader.cost(
            rate, float(nats), tokens, held=n, computed=n + m,
            flops=self.reader.anew_flops(n, m) + float(self._deciding.total(L + m + 1, m)),
            dimensions=self.dimensions(slice(1, n + 1)),  # after the start token
        )  # fmt: skip


def reading(method: Method, model: nn.Module, device: str) -> Forgotten:
    """Return the reading of a loaded run."""
    assert isinstance(method, Forgetting)
    assert isinstance(model, Forgetter)
    placed = model.to(device)
    return Forgotten(placed, CausalReader(placed.lm, method.tokenizer))
