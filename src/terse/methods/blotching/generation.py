"""Batched generation with a key-value cache; finished sequences are not computed further."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache

from terse.methods.blotching.model import Blotcher

# Share of unfinished sequences below which finished ones are removed from the batch.
SHRINK_BELOW = 0.75


@dataclass(frozen=True)
class Ending:
    """When a sequence ends: at `eos`, or at `longest` tokens; `pad` fills the rest."""

    eos: int
    pad: int
    longest: int


@torch.inference_mode()
def generate(
    model: Blotcher,
    prompts: Sequence[NDArray[np.int64]],
    positions: NDArray[np.int64],
    ending: Ending,
    *,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return the continuation of each prompt, (B, new), on the CPU: up to EOS, then padding.

    positions (B, longest): the position of each token of a sequence. temperature: 0 takes the most
    likely token. generator: for sampling, on the model's device; the global one if None.
    """
    device = next(model.parameters()).device
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    width = int(lengths.max())
    ids = torch.full((len(prompts), width), ending.pad)
    for line, prompt in zip(ids, prompts, strict=True):
        line[: len(prompt)] = torch.from_numpy(prompt)
    places = torch.from_numpy(positions).to(device)
    seen = (torch.arange(width, device=device) < lengths[:, None]).long()  # (B, T)
    cache = DynamicCache(config=model.lm.config)
    logits = model(ids.to(device), seen, places[:, :width], cache)
    last = logits[torch.arange(len(ids), device=device), lengths - 1]  # (B, V)
    n_new = ending.longest - int(lengths.min())
    written = torch.full((len(prompts), n_new), ending.pad, device=device)
    rows = torch.arange(len(prompts), device=device)  # output row of each sequence in the batch
    alive = torch.ones_like(rows, dtype=torch.bool)
    for step in range(n_new):
        tokens = torch.where(alive, sample(last, temperature, generator), ending.pad)
        written[rows, step] = tokens
        alive = alive & (tokens != ending.eos) & (lengths + step + 1 < ending.longest)
        if not alive.any():
            return written[:, : step + 1].cpu()
        if alive.float().mean() < SHRINK_BELOW:
            cache.batch_select_indices(alive.nonzero()[:, 0])
            rows, tokens, seen, lengths, places, alive = (
                x[alive] for x in (rows, tokens, seen, lengths, places, alive)
            )
        seen = torch.cat([seen, torch.ones_like(seen[:, :1])], 1)
        here = (lengths + step).clamp(max=ending.longest - 1)[:, None]
        last = model(tokens[:, None], seen, places.gather(1, here), cache)[:, -1]
    return written.cpu()


def sample(logits: Tensor, temperature: float, generator: torch.Generator | None) -> Tensor:
    """Return a token for each row of logits (B, V): (B,)."""
    if temperature == 0:
        return logits.argmax(-1)
    weights = (logits.float() / temperature).softmax(-1)
    return torch.multinomial(weights, 1, generator=generator)[:, 0]
