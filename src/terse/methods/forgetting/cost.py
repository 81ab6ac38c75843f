"""What a window costs at each forget rate, computed and measured, the mask's own cost with it."""

from collections.abc import Callable
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedModel

from terse.evaluation.cost import cache_size, interleaved, peak_memory
from terse.methods.forgetting.evaluation import Evaluated, rows_of
from terse.methods.forgetting.model import Forgetter
from terse.methods.forgetting.packing import Packed, Rows, pack
from terse.models.modules import module_paths, n_layers

ROUNDS = 7


def work(lm: PreTrainedModel, n: float, n_scored: float) -> dict[str, float]:
    """Return the computed work of n positions in floating-point operations, by its parts.

    linear: matrices of the blocks, 2 per weight. attention: scores and sums of values, causal.
    head: output embeddings of n_scored positions.
    """
    config = lm.config.get_text_config()
    path = module_paths(lm)["block"]
    L = n_layers(lm)
    blocks = (lm.get_submodule(path.format(layer=i)) for i in range(L))
    weights = sum(p.numel() for block in blocks for p in block.parameters() if p.ndim >= 2)
    return {
        "linear": 2.0 * weights * n,
        "attention": 2.0 * L * config.hidden_size * n * n,
        "head": 2.0 * config.hidden_size * config.vocab_size * n_scored,
    }


def cost_table(given: Evaluated) -> pd.DataFrame:
    """Return a row for each forget rate, 0 (the identity) first; see the caption of `cost`."""
    model = given.model
    rows = rows_of(_fullest(given), given.device)
    rates = [0.0] if model.settings.mask == "identity" else [0.0, *model.settings.eval_rates]
    with torch.no_grad():
        packed = {rate: _packed(model, rows, rate) for rate in rates}
        ways: dict[str, Callable[[], Tensor]] = {}
        for rate in rates:
            ways[f"pass {rate}"] = lambda rate=rate: _pass(model, rows, rate)
            ways[f"mask {rate}"] = lambda rate=rate: _packed(model, rows, rate).input_ids
        seconds = interleaved(ways, ROUNDS)
        found = [_row(model, rows, rate, packed[rate], seconds) for rate in rates]
    table = pd.DataFrame(found)
    for column in ("computed_flops", "wall_s", "peak_memory_bytes", "key_value_bytes"):
        name = column.removesuffix("_s").removesuffix("_bytes").removesuffix("_flops")
        table[f"{name}_ratio"] = table[column] / table[column].iloc[0]
    return table


def _fullest(given: Evaluated) -> list[dict[str, Any]]:
    """Return the first batch of windows with a whole context, or of the longest there are."""
    n = min(len(given.rows), 16 * given.batch_size)  # type: ignore[arg-type]
    items = [given.rows[i] for i in range(n)]
    items.sort(key=lambda item: -int(item["attention_mask"].sum()))
    return items[: given.batch_size]


def _packed(model: Forgetter, rows: Rows, rate: float) -> Packed:
    """Return windows as the model reads them; at rate 0 no mask is asked."""
    if rate == 0:
        keep = torch.ones_like(rows.attention_mask)
    else:
        keep = model.decisions(rows, "prefix", rate) | rows.is_target
    return pack(
        rows.input_ids, keep, rows.attention_mask, pad_id=model.pad_id,
        positions=model.settings.positions,
    )  # fmt: skip


def _pass(model: Forgetter, rows: Rows, rate: float) -> Tensor:
    if rate == 0:
        return model.score(rows, torch.ones_like(rows.attention_mask), "prefix").nats
    return model.score(rows, model.decisions(rows, "prefix", rate), "prefix").nats


def _row(
    model: Forgetter, rows: Rows, rate: float, packed: Packed, seconds: dict[str, float]
) -> dict[str, float]:
    n_scored = float(rows.is_target.sum(1).float().mean())
    before, after = (
        float(rows.attention_mask.sum(1).float().mean()),
        float(packed.lengths.float().mean()),
    )
    whole, left = work(model.lm, before, n_scored), work(model.lm, after, n_scored)
    wall = seconds[f"pass {rate}"]
    return {
        "forget_rate": rate,
        "positions": after,
        "linear_ratio": left["linear"] / whole["linear"],
        "attention_ratio": left["attention"] / whole["attention"],
        "computed_flops": sum(left.values()),
        "wall_s": wall,
        "mask_share": 0.0 if rate == 0 else seconds[f"mask {rate}"] / wall,
        "peak_memory_bytes": float(peak_memory(lambda: _pass(model, rows, rate))),
        "key_value_bytes": _key_value_bytes(model, packed),
    }


def _key_value_bytes(model: Forgetter, packed: Packed) -> float:
    """Return the bytes of keys and values of one window, after a pass that keeps them."""
    cache = model.lm(
        input_ids=packed.input_ids,
        attention_mask=packed.attention_mask.long(),
        position_ids=packed.position_ids,
        use_cache=True,
    ).past_key_values
    per_position = cache_size(cache) / packed.input_ids.numel()
    return per_position * float(packed.lengths.float().mean())
