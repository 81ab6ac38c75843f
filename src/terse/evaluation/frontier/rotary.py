"""Rotary positions of a model: to turn queries and keys back, or on to other positions."""

import sys
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from terse.errors import TerseError
from terse.models.layers import layer_list


class Rotary:
    """The rotation of a model's queries and keys over halves of each head, as in Llama.

    Raises TerseError for a model with other positions. (https://arxiv.org/abs/2104.09864)
    """

    def __init__(self, lm: PreTrainedModel) -> None:
        module = getattr(lm.base_model, "rotary_emb", None)
        if module is None or not _turns_halves(lm):
            raise TerseError(
                f"the reader, a {type(lm).__name__}, has no rotary positions over halves of its "
                "heads, which this way needs"
            )
        self._module: Any = module
        self.scaling = float(getattr(module, "attention_scaling", 1.0))

    def angles(self, positions: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosines and sines (..., n, D) of positions (..., n)."""
        cos, sin = self._module(like, positions.reshape(1, -1))
        if cos.shape[-1] != like.shape[-1]:
            raise TerseError("the reader rotates only a part of its heads; this way needs all")
        shape = (*positions.shape, cos.shape[-1])
        return (cos / self.scaling).reshape(shape), (sin / self.scaling).reshape(shape)

    def turned(self, states: Tensor, by: Tensor) -> Tensor:
        """Return states (H, n, D) turned by positions (n,) or (H, n), which may be negative."""
        cos, sin = self.angles(by, states)
        return states * cos + rotate_half(states) * sin


def rotate_half(x: Tensor) -> Tensor:
    """Return x (..., D) with its halves swapped and the second negated."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat([-second, first], dim=-1)


def _turns_halves(lm: PreTrainedModel) -> bool:
    """Return whether the model's own code rotates as `rotate_half`, rather than pair by pair."""
    found = layer_list(lm)
    if found is None:
        return False
    own = getattr(sys.modules[type(found[1][0]).__module__], "rotate_half", None)
    probe = torch.arange(1.0, 9.0)
    return own is not None and torch.equal(own(probe), rotate_half(probe))
