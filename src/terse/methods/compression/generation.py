"""Generation after a compressed context, with the key-value cache."""

from typing import Any

import torch
from torch import Tensor

from terse.methods.compression.model import Compressor


@torch.no_grad()
def generate(
    model: Compressor, Z: Tensor, max_new_tokens: int, *, cue: str = "forward", **options: Any
) -> Tensor:
    """Return the tokens (B, new) that the model generates after vectors Z (B, spans x c, E).

    options: those of transformers' `generate`; without any, generation is greedy.
    """
    return model.write(model.prefix(Z, cue), max_new_tokens, **options)
