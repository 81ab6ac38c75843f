"""Generation after a compressed context, with the key-value cache."""

from typing import Any

import pandas as pd
import torch
from torch import Tensor

from terse.methods.compression.model import Compressor
from terse.methods.compression.passes import embed, written_after
from terse.methods.compression.windows import ListedWindows


@torch.no_grad()
def generate(
    model: Compressor, Z: Tensor, max_new_tokens: int, *, cue: str = "forward", **options: Any
) -> Tensor:
    """Return what the model writes after vectors Z (B, spans x c, E), tokens (B, new).

    options: those of transformers' `generate`; greedy if none are given.
    """
    return written_after(model.lm, model.prefix(Z, cue), max_new_tokens, **options)


def samples_table(
    model: Compressor,
    windows: ListedWindows,
    tokenizer: Any,
    start: int,
    n: int,
    max_new_tokens: int = 40,
) -> pd.DataFrame:
    """Return n contexts from as many documents, what follows, and what each arm writes.

    start: the token that an empty context begins with.
    """
    rows = []
    for item in _from_documents(windows, n):
        context = item["context"][item["context_mask"].bool()][None].to(model.vectors.device)
        target = item["target"][item["is_new"].bool()]
        Z = model.compress(context, torch.ones_like(context))
        nothing = torch.full_like(context[:, :1], start)
        written = {
            "with_context": written_after(model.lm, embed(model.lm, context), max_new_tokens),
            "with_vectors": generate(model, Z, max_new_tokens, cue=model.cue),
            "with_nothing": written_after(model.lm, embed(model.lm, nothing), max_new_tokens),
        }
        texts = {"context": context[0], "what_follows": target}
        texts |= {name: tokens[0] for name, tokens in written.items()}
        rows.append({name: tokenizer.decode(tokens) for name, tokens in texts.items()})
    return pd.DataFrame(rows)


def _from_documents(windows: ListedWindows, n: int) -> list[Any]:
    """Return the middle window of n documents, evenly spread."""
    places: dict[int, list[int]] = {}
    for i, place in enumerate(windows.places):
        places.setdefault(place[0], []).append(i)
    chosen = list(places.values())
    n = min(n, len(chosen))
    picked = [chosen[i * len(chosen) // n] for i in range(n)]
    return [windows[members[len(members) // 2]] for members in picked]
