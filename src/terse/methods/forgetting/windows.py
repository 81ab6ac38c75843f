"""Additive attention masks for models whose layers see a whole text, a window of it, or a chunk.

A window counts positions of the original row in mode `kv`, since a dropped token was processed; in
`pack` and `prefix` it counts the remaining tokens, the only ones that the model reads.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from terse.errors import TerseError

FULL, SLIDING, CHUNKED = "full_attention", "sliding_attention", "chunked_attention"


def layer_kinds(lm: PreTrainedModel) -> set[str]:
    """Return the kinds of attention of a model's layers, under their names in transformers.

    Raises TerseError for layers from which no mask can hide a token.
    """
    config: Any = lm.config.get_text_config()
    if kinds := set(getattr(config, "layer_types", None) or []):
        if other := sorted(kinds - {FULL, SLIDING, CHUNKED}):
            raise TerseError(
                f"{type(lm).__name__} has layers of kind {other[0]}, from which tokens cannot be "
                "hidden: use mode pack or prefix"
            )
        return kinds
    if getattr(config, "sliding_window", None) is not None:
        return {SLIDING}
    return {CHUNKED} if getattr(config, "attention_chunk_size", None) is not None else {FULL}


def in_windows(
    lm: PreTrainedModel, queries: Tensor, keys: Tensor, mask: Callable[[Tensor], Tensor]
) -> Tensor | dict[str, Tensor]:
    """Return the mask that a model takes: a single one, or one for each kind of its layers.

    queries (B, Q), keys (B, K): the positions that a window counts. mask: makes the mask of a kind
    of layer from the keys in its window, (B, Q, K) bool.
    """
    masks = {
        kind: mask(_near(lm, kind, queries[:, :, None], keys[:, None]))
        for kind in sorted(layer_kinds(lm))
    }
    return masks if len(masks) > 1 else next(iter(masks.values()))


def attention_masks(
    lm: PreTrainedModel, seen: Tensor, queries: Tensor, keys: Tensor
) -> Tensor | dict[str, Tensor]:
    """Return additive masks (B, 1, Q, K), as `in_windows` does.

    seen (B, Q, K) bool: what each query sees where its layer has no window.
    """
    return in_windows(lm, queries, keys, lambda near: _additive(seen & near, lm.dtype))


def _near(lm: PreTrainedModel, kind: str, queries: Tensor, keys: Tensor) -> Tensor:
    """Return which keys (B, Q, K) are in the window of a kind of layer."""
    config: Any = lm.config.get_text_config()
    if kind == SLIDING and config.sliding_window is not None:
        return keys > queries - config.sliding_window
    if kind == CHUNKED:
        size = config.attention_chunk_size
        return keys // size == queries // size
    return torch.ones_like(keys > queries)


def _additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    hidden = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
    return hidden.masked_fill(~seen, torch.finfo(dtype).min)[:, None]
