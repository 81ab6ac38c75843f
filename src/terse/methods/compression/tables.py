"""Tables of a compression run: each arm's generated text, and the vectors' dimensions."""

from typing import Any

import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import default_collate

from terse.evaluation.dimensions import dimensions_of
from terse.methods.compression.frozen_lm import blocks_of, embed, hidden_state, written_after
from terse.methods.compression.generation import generate
from terse.methods.compression.model import Compressor
from terse.methods.compression.rows import ListedWindows


def samples_table(
    model: Compressor,
    windows: ListedWindows,
    tokenizer: Any,
    start: int,
    n: int,
    max_new_tokens: int = 40,
) -> pd.DataFrame:
    """Return n contexts of different documents, their true continuations, and each arm's.

    start: the token with which an empty context begins. A model that also learned to reproduce
    its context writes that too, as many tokens as the context has.
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
        if model.reproduces:
            written["reproduced"] = generate(model, Z, context.shape[1], cue="remember")
        texts = {"context": context[0], "what_follows": target}
        texts |= {name: tokens[0] for name, tokens in written.items()}
        rows.append({name: tokenizer.decode(tokens) for name, tokens in texts.items()})
    return pd.DataFrame(rows)


def _from_documents(windows: ListedWindows, n: int) -> list[Any]:
    """Return the middle windows of n documents, evenly spread."""
    places: dict[int, list[int]] = {}
    for i, place in enumerate(windows.places):
        places.setdefault(place[0], []).append(i)
    chosen = list(places.values())
    n = min(n, len(chosen))
    picked = [chosen[i * len(chosen) // n] for i in range(n)]
    return [windows[members[len(members) // 2]] for members in picked]


def dimensions_table(model: Compressor, windows: ListedWindows) -> pd.DataFrame:
    """Return a row for each cloud and estimator; a point of a cloud is one window's context.

    Clouds: each vector by its index, their `mean`, and, at the same hidden state of the plain
    model, the `last_token` of the context and the mean over its tokens, `token_mean`.
    Columns: cloud, estimator, id, n_eff (contexts used), n_dup (equal to another), flags.
    """
    return dimensions_of(clouds(model, windows), "cloud")


@torch.inference_mode()
def clouds(model: Compressor, windows: ListedWindows) -> dict[str, Tensor]:
    """Return the clouds by name, (windows, width) each, float32 on the CPU."""
    size = model.settings.val_batch_size or model.settings.batch_size
    parts: dict[str, list[Tensor]] = {}
    for first in range(0, len(windows), size):
        chosen = [windows[i] for i in range(first, min(first + size, len(windows)))]
        batch = default_collate(
            [{k: row[k] for k in ("context", "context_mask")} for row in chosen]
        )
        tokens, mask = (batch[k].to(model.vectors.device) for k in ("context", "context_mask"))
        Z = model.compress(tokens, mask)  # (B, spans x c, E)
        found = {f"vector-{i}": Z[:, i] for i in range(Z.shape[1])}
        found["mean"] = Z.mean(1)
        index = len(blocks_of(model.lm)) if model.layer is None else model.layer
        states = hidden_state(model.lm, embed(model.lm, tokens), mask, index).float()  # (B, k, H)
        found["last_token"] = states[:, -1]
        found["token_mean"] = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        for name, points in found.items():
            parts.setdefault(name, []).append(points.float().cpu())
    return {name: torch.cat(points) for name, points in parts.items()}
