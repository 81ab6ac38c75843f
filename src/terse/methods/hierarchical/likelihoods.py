"""Two likelihoods of text, in nats: of codes and the text given them, and of each byte in order."""

from dataclasses import dataclass

import torch
from torch import Tensor

from terse.methods.hierarchical.compressor import Segments
from terse.methods.hierarchical.model import HierarchicalAutoencoder


@dataclass(frozen=True)
class TwoPart:
    """The parts of the bound, (B,) nats each: codes under the top LM, then level by level down.

    expanders: the lowest level last. Their sum gives bits per byte as an upper bound, since it is
    the cost of one encoding of the text among many.
    """

    codes: Tensor
    expanders: list[Tensor]

    @property
    def total(self) -> Tensor:
        """The cost of each row, (B,)."""
        return self.codes + torch.stack(self.expanders).sum(0)


def undefined(model: HierarchicalAutoencoder) -> str | None:
    """Return why a model has no two-part bound, None if it has one."""
    if model.top is None:
        return "a first stage has no top LM"
    if model.top.settings.continuous or model.top.head is None:
        return "the top LM predicts vectors, not codes"
    return None


def two_part(model: HierarchicalAutoencoder, levels: list[Segments]) -> TwoPart:
    """Return the bound of encoded rows: p_top(codes, EOS), p_exp(symbols | codes above) each."""
    last, states = levels[-1], model.code_lm(levels[-1].rows)
    codes = model.code_lm.nats(states, last.codes, last.n).sum(1)
    parts = []
    for i in reversed(range(len(levels))):
        rows = model.memory(last, states) if i == len(levels) - 1 else levels[i].rows
        parts.append(model.reconstruction_nats(i, levels[i], rows).sum(1))
    return TwoPart(codes, parts)


def causal_nats(model: HierarchicalAutoencoder, ids: Tensor) -> Tensor:
    """Return the cost (B, S - 1) of each symbol of rows (B, S) but the first, given those before.

    Padding costs nothing.
    """
    levels = model.encode(ids)
    return model.predicted_nats(levels, model.code_lm(levels[-1].rows))
