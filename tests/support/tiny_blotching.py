"""Small chains, layouts and models of the method `blotching`."""

from typing import Any

import numpy as np
import torch
from transformers import set_seed

from terse.config.methods import settings_of
from terse.corpora.arithmetic.expressions import read
from terse.methods.blotching.blotches import Chain
from terse.methods.blotching.chains import chain_of
from terse.methods.blotching.method import Blotching
from terse.methods.blotching.model import Blotcher
from terse.methods.blotching.settings import BlotchingSettings
from terse.training.method import Inputs

SETTINGS = {
    "method": "blotching", "max_steps": 6, "batch_size": 8, "warmup_steps": 2, "lr": 5e-3,
    "max_num": 30, "max_ents": 3, "n_problems": 60, "n_val_problems": 12,
    "d_model": 16, "n_layers": 2, "n_heads": 2, "val_batch_size": 12, "n_eval_ps": 3,
    "n_votes": 2, "n_samples": 2, "eval_temps": [1.0],
    "log_interval": 2, "eval_interval": 3, "checkpoint_steps": [0],
}  # fmt: skip
POSENCS = [
    "SinPositionalEncoding", "RandPositionalEncoding", "RandSinPositionalEncoding",
    "RotaryPositionalEncoding",
]  # fmt: skip
LONG = read("3*2+18")  # seven steps between problem and answer


def settings(**changes: Any) -> BlotchingSettings:
    merged = {k: v for k, v in (SETTINGS | changes).items() if v is not None}
    if merged.get("arm", "intensity") != "intensity" or merged.get("blotch_p") is not None:
        merged.pop("n_eval_ps", None)
    made = settings_of(merged)
    assert isinstance(made, BlotchingSettings)
    return made


def blotching(inputs: Inputs | None = None, **changes: Any) -> Blotching:
    return Blotching(settings(**changes), inputs or Inputs())


def built(method: Blotching, seed: int = 0) -> Blotcher:
    """Return a model whose outputs depend on all it reads."""
    torch.set_num_threads(1)
    set_seed(seed)
    model = method.build().eval()
    with torch.no_grad():
        for parameter in model.lm.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4)
    return model


def long_chain() -> Chain:
    return chain_of(LONG)


def rng(*words: int) -> np.random.Generator:
    return np.random.default_rng(list(words))
