"""What a context costs: positions, bytes of the key-value cache, time to the first token."""

from collections.abc import Callable
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from terse.evaluation.cost import cache_size, interleaved
from terse.evaluation.measures import Measure
from terse.methods.compression.frozen_lm import embed, keeping
from terse.methods.compression.model import Compressor
from terse.methods.compression.rows import ListedWindows


def prefixes(model: Compressor, windows: ListedWindows) -> dict[str, Tensor]:
    """Return what stands before new text, (1, T, E): `high` a context's tokens, `compressed`."""
    context = context_of(windows).to(model.vectors.device)
    Z = model.compress(context, torch.ones_like(context))
    return {"high": embed(model.lm, context), "compressed": model.prefix(Z, model.cue)}


def context_of(windows: ListedWindows) -> Tensor:
    """Return the first window's context, real tokens only, (1, T)."""
    row = windows[0]
    return row["context"][row["context_mask"].bool()][None]


def cost_measures(model: Compressor, windows: ListedWindows) -> list[Measure]:
    """Return the positions before the first new token and the bytes of the cache by then."""
    measures = []
    with torch.inference_mode():
        for arm, embeds in prefixes(model, windows).items():
            positions, size = float(embeds.shape[1]), float(cache_bytes(model, embeds))
            measures.append(Measure(arm, "positions", positions, n=1))
            measures.append(Measure(arm, "key_value_bytes", size, n=1))
    return measures


def cost_table(model: Compressor, windows: ListedWindows) -> pd.DataFrame:
    """Return the cost of a context, a row for each way, with the share of that of `high`.

    time_to_first_token_s is the median of interleaved rounds on this machine: from tokens, from
    vectors that are there, and from vectors with the pass that makes them (`compressing`).
    """
    with torch.inference_mode():
        before = prefixes(model, windows)
        context = context_of(windows).to(model.vectors.device)

        def compressing() -> Tensor:
            made = model.compress(context, torch.ones_like(context))
            return _first_token(model, model.prefix(made, model.cue))

        ways = {arm: _first_token_after(model, embeds) for arm, embeds in before.items()}
        seconds = interleaved({**ways, "compressing": compressing})
        sizes = {arm: cache_bytes(model, embeds) for arm, embeds in before.items()}
    rows = [
        {
            "way": way,
            "positions": before.get(way, before["compressed"]).shape[1],
            "key_value_bytes": sizes.get(way, sizes["compressed"]),
            "time_to_first_token_s": median,
        }
        for way, median in seconds.items()
    ]
    table = pd.DataFrame(rows)
    for column in ("positions", "key_value_bytes", "time_to_first_token_s"):
        table[f"{column.removesuffix('_s')}_ratio"] = table[column] / table[column].iloc[0]
    return table


def _first_token_after(model: Compressor, embeds: Tensor) -> Callable[[], Tensor]:
    return lambda: _first_token(model, embeds)


def _first_token(model: Compressor, embeds: Tensor) -> Tensor:
    return _prefill(model, embeds).logits[:, -1].argmax(-1)


def _prefill(model: Compressor, embeds: Tensor) -> Any:
    return model.lm(inputs_embeds=embeds.to(model.lm.dtype), use_cache=True, **keeping(model.lm, 1))


def cache_bytes(model: Compressor, embeds: Tensor) -> int:
    """Return the bytes of keys and values after a pass over embeddings (1, T, E)."""
    return cache_size(_prefill(model, embeds).past_key_values)
