"""Small chains, layouts and models of the method `blotching`."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import set_seed

from terse.config.methods import settings_of
from terse.corpora.arithmetic.expressions import read
from terse.methods.blotching.blotches import Chain
from terse.methods.blotching.chains import chain_of
from terse.methods.blotching.evaluation import Evaluation
from terse.methods.blotching.generation import Ending
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
SMALL = {"max_num": 15, "max_ents": 2, "n_val_problems": 6, "n_layers": 1, "val_batch_size": 4}
_OF_PROBLEMS = (
    "max_num", "max_ents", "n_problems", "n_votes", "n_samples", "eval_temps",
)  # fmt: skip
TEXT: dict[str, Any] = dict.fromkeys(_OF_PROBLEMS) | {
    "corpus": "c", "tokenizer": "t", "seq_len": 120,
}  # fmt: skip
POSENCS = [
    "SinPositionalEncoding", "RandPositionalEncoding", "RandSinPositionalEncoding",
    "RotaryPositionalEncoding",
]  # fmt: skip
EVERY = {
    posenc: {"posenc_type": posenc} | ({} if posenc.startswith("Rotary") else {"max_posencs": 200})
    for posenc in POSENCS
}
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


CHAIN = long_chain()  # 3*2+18=2*3+18=3+3+18=8+3+3+10=3+11+10=1+3+10+10=4+10+10=14+10=24


def rng(*words: int) -> np.random.Generator:
    return np.random.default_rng(list(words))


def evaluated(**changes: Any) -> tuple[Blotching, Evaluation]:
    """Return a method on few problems and the scores of its untrained model."""
    method = blotching(**(SMALL | changes))
    chains = method.validation_chains
    return method, Evaluation(built(method), method.layout, chains, method.arithmetic)


def batch_of(method: Any, n: int = 6, p: float = 0.5) -> dict[str, Tensor]:
    """Return the first validation chains as rows at share `p`."""
    rows = [method.layout.row(method.validation_chains[i], p, rng(i)) for i in range(n)]
    return method.collate(rows)


def logits_of(model: Blotcher, batch: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return model(batch["input_ids"], batch["attention_mask"], batch["position_ids"])


def uncached(model: Blotcher, prompt: np.ndarray, places: np.ndarray, ending: Ending) -> list[int]:
    """Return the greedy continuation by reading the whole prefix again for each token."""
    ids = list(prompt)
    while len(ids) < ending.longest and (len(ids) == len(prompt) or ids[-1] != ending.eos):
        n = len(ids)
        batch = {
            "input_ids": torch.tensor([ids]),
            "attention_mask": torch.ones(1, n, dtype=torch.long),
            "position_ids": torch.from_numpy(places[:n])[None],
        }
        ids.append(int(logits_of(model, batch)[0, -1].argmax()))
    return ids[len(prompt) :]
