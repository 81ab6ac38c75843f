"""Tiny compressors over six architectures and windows for them."""

from collections.abc import Iterator
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from terse.methods.compression.model import Compressor
from terse.methods.compression.settings import CompressionSettings
from tiny_lms import BUILD, VOCAB, random_tokens, tiny_lm

SETTINGS = {
    "method": "compression", "corpus": "c", "base": "b", "max_steps": 3, "cmp_len": 6, "n_cmps": 2,
    "seq_len": 11, "cmp_layer": -2, "checkpoint_steps": [],
}  # fmt: skip
ARCHITECTURES = sorted(BUILD)


def compressor(architecture: str = "llama", seed: int = 0, **changes: Any) -> Compressor:
    """Return an untrained compressor in eval mode over a tiny base."""
    lm = tiny_lm(architecture, seed)
    return Compressor(lm, CompressionSettings.model_validate(SETTINGS | changes)).eval()


def batch_of(k: int = 6, n: int = 5, B: int = 3, seed: int = 0) -> dict[str, torch.Tensor]:
    """Return windows; the last one's target is short."""
    target_mask = torch.ones(B, n, dtype=torch.long)
    target_mask[-1, n - 2 :] = 0
    return {
        "context": random_tokens(B, k, seed=seed),
        "context_mask": torch.ones(B, k, dtype=torch.long),
        "target": random_tokens(B, n, seed=seed + 1),
        "target_mask": target_mask,
        "is_new": target_mask,
    }


def read(model: Compressor, Z: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the logits of a target that is read after vectors `Z` and the cue."""
    return model.read(model.prefix(Z, "forward"), target, torch.ones_like(target))


def lms_that_just_fit(n: int) -> Iterator[tuple[PreTrainedModel, bool]]:
    """Yield a model with n learned positions and one with a position less, and whether n fit."""
    for n_positions in (n, n - 1):
        config = GPT2Config(
            vocab_size=VOCAB, n_embd=16, n_layer=2, n_head=2, n_positions=n_positions
        )  # fmt: skip
        yield GPT2LMHeadModel(config), n_positions == n
