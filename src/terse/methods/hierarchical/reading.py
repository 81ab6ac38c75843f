"""The method's way of reading contexts in a frontier: codes, after which its own model reads."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from terse.errors import TerseError
from terse.evaluation.flops import counted
from terse.evaluation.frontier.reading import Cost, Reading
from terse.evaluation.frontier.windows import Window
from terse.methods.hierarchical.likelihoods import causal_nats
from terse.methods.hierarchical.model import HierarchicalAutoencoder
from terse.methods.hierarchical.settings import BOS
from terse.training.method import Method


class Coded(Reading):
    """The context's segments are held by the language model of codes; each byte is predicted.

    The likelihood is the causal one, as `bits_per_byte` of the arm `causal` in the evaluation.
    """

    positions = "vectors"
    fixed = True

    def __init__(self, model: HierarchicalAutoencoder) -> None:
        self.model = model
        top = model.settings.top_transformer_config
        assert top is not None
        width = model.levels[0][0].norm.weight.dtype.itemsize
        self.bytes_per_segment = 2.0 * top.num_layers * top.dim * width

    @property
    def holder(self) -> nn.Module:
        return self.model.code_lm

    def read(self, window: Window, rates: Sequence[float]) -> list[Cost]:
        context, target = window.context.encode(), window.target.encode()
        ids = torch.tensor([[BOS, *context, *target]], device=self.model.device)
        if ids.shape[1] > (longest := self.model.settings.sequence_length):
            raise TerseError(
                f"a window has {ids.shape[1]} positions, but the run's rows have {longest}: lower "
                "context_bytes"
            )
        found: list[Tensor] = []
        flops = counted(lambda: found.append(causal_nats(self.model, ids)))
        held = int(self.model.encode(ids[:, : 1 + len(context)])[-1].n)
        dimensions = self.dimensions(slice(1, held + 1))  # after the start of codes
        return [
            Cost(
                held / len(context), float(found[0][0, -len(target) :].double().sum()),
                len(target), len(context), held, self._computed(ids), flops,
                held * self.bytes_per_segment, dimensions,
            )
        ]  # fmt: skip

    def _computed(self, ids: Tensor) -> float:
        """Return the positions of compressors, expanders and the language model of codes."""
        levels = self.model.encode(ids)
        read = sum(level.sequence.digits.shape[1] for level in levels)
        return 2.0 * read - len(levels) + 1 + levels[-1].rows.shape[1]


def reading(method: Method, model: nn.Module, device: str) -> Coded:
    """Return the reading of a loaded run with a language model of codes."""
    assert isinstance(model, HierarchicalAutoencoder)
    return Coded(model.to(device))
