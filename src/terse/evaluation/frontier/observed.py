"""A pass over a context that also shows each layer's queries, for scores of attention."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from terse.errors import TerseError
from terse.evaluation.frontier.rotary import Rotary

NAME = "terse_observed"
_SEEN: list[tuple[Tensor, float]] | None = None  # of the layers of the pass that is observed


@dataclass(frozen=True)
class Layer:
    """What one layer's cache holds of a context of L positions, and how it was asked.

    keys, values: (H, L, D), rotated. queries: (Q, L, D), rotated, Q / H of them for each key and
    value head; None unless observed. scaling: factor of their products. rotary: the positions.
    """

    keys: Tensor
    values: Tensor
    queries: Tensor | None = None
    scaling: float = 1.0
    rotary: Rotary | None = None

    @property
    def L(self) -> int:  # noqa: N802
        """Positions."""
        return self.keys.shape[1]

    @property
    def asked(self) -> Tensor:
        """Queries (H, Q / H, L, D), by the key and value head that they ask."""
        if self.queries is None:
            raise TerseError("this pass was not observed")
        return self.queries.unflatten(0, (len(self.keys), -1))


def observe(lm: PreTrainedModel) -> None:
    """Make a model's attention observable; raises TerseError if it can't be.

    The results don't change: it computes attention by torch's own kernel, as before.
    """
    if lm.config._attn_implementation == NAME:
        return
    if lm.config._attn_implementation != "sdpa":
        raise TerseError(
            f"the reader, a {type(lm).__name__}, computes attention in its own way "
            f"({lm.config._attn_implementation}), so its queries can't be seen"
        )
    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    lm.set_attn_implementation(NAME)


@contextmanager
def observed() -> Iterator[list[tuple[Tensor, float]]]:
    """Collect (queries (1, Q, L, D), scaling) of each layer that runs inside, in order."""
    global _SEEN
    _SEEN = found = []
    try:
        yield found
    finally:
        _SEEN = None


def _attention(module: nn.Module, query: Tensor, key: Tensor, *args: Any, **options: Any) -> Any:
    if _SEEN is not None:
        scaling = options.get("scaling")
        _SEEN.append((query, float(scaling if scaling is not None else query.shape[-1] ** -0.5)))
    return sdpa_attention_forward(module, query, key, *args, **options)
