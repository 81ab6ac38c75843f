"""The cost of a window at each forget rate, computed and measured, including the mask's."""

from collections.abc import Callable

import pandas as pd
import torch
from torch import Tensor

from terse.evaluation.cost import cache_size, interleaved, peak_memory
from terse.evaluation.flops import PassFlops, lm_flops
from terse.evaluation.scores import floats
from terse.methods.forgetting.baselines import SaliencyMask
from terse.methods.forgetting.masks import Mask
from terse.methods.forgetting.model import Forgetter
from terse.methods.forgetting.packing import Packed, Rows, pack

ROUNDS = 7


def mask_flops(mask: Mask, device: str) -> PassFlops:
    """Return the cost of a mask on windows of n positions, m of them targets.

    Zero if it has no matrices. Both the forward and the backward pass of the oracle count.
    """
    if not (mask.learned or isinstance(mask, SaliencyMask)):
        return PassFlops(0.0, 0.0)

    def run(n: int, m: int) -> None:
        real = torch.ones(1, n, dtype=torch.bool, device=device)
        is_target = torch.arange(n, device=device)[None] >= n - m
        rows = Rows(torch.zeros_like(real, dtype=torch.long), real, is_target)
        mask.logits(rows, rows.is_context)

    return PassFlops.measured(run)


def cost_table(model: Forgetter, rows: Rows) -> pd.DataFrame:
    """Return a row for each forget rate, 0 (the identity) first; see the caption of `cost`."""
    rates = [0.0] if model.settings.mask == "identity" else [0.0, *model.settings.eval_rates]
    lm, deciding = lm_flops(model.lm), mask_flops(model.mask, str(rows.input_ids.device))
    with torch.no_grad():
        packed = {rate: _packed(model, rows, rate) for rate in rates}
        ways: dict[str, Callable[[], Tensor]] = {}
        for rate in rates:
            ways[f"pass {rate}"] = lambda rate=rate: _pass(model, rows, rate)
            ways[f"mask {rate}"] = lambda rate=rate: _packed(model, rows, rate).input_ids
        seconds = interleaved(ways, ROUNDS)
        found = [
            {"forget_rate": rate}
            | _computed(rows, rate, packed[rate], lm, deciding)
            | _measured(model, rows, rate, packed[rate], seconds)
            for rate in rates
        ]
    table = pd.DataFrame(found)
    for part in ("linear", "attention"):
        table[f"{part}_ratio"] = table[f"{part}_flops"] / table[f"{part}_flops"].iloc[0]
    for column in ("forward_flops", "wall_s", "peak_memory_bytes", "key_value_bytes"):
        name = column.removesuffix("_s").removesuffix("_bytes")
        table[f"{name}_ratio"] = table[column] / table[column].iloc[0]
    return table


def _computed(
    rows: Rows, rate: float, packed: Packed, lm: PassFlops, deciding: PassFlops
) -> dict[str, float]:
    """Return the positions and the FLOPs of a window, the mean over rows."""
    n, n_targets = floats(packed.lengths), rows.is_target.sum(1)
    mask = 0.0
    if rate > 0:
        mask = float(deciding.total(rows.attention_mask.sum(1), n_targets).mean())
    return {
        "positions": float(n.mean()),
        "linear_flops": float((lm.linear * n).mean()),
        "attention_flops": float((lm.attention * n**2).mean()),
        "mask_flops": mask,
        "forward_flops": float(lm.total(n, n_targets).mean()) + mask,
    }


def _packed(model: Forgetter, rows: Rows, rate: float) -> Packed:
    """Return windows as the model reads them; at rate 0 the mask does not run."""
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


def _measured(
    model: Forgetter, rows: Rows, rate: float, packed: Packed, seconds: dict[str, float]
) -> dict[str, float]:
    wall = seconds[f"pass {rate}"]
    return {
        "wall_s": wall,
        "mask_share": 0.0 if rate == 0 else seconds[f"mask {rate}"] / wall,
        "peak_memory_bytes": float(peak_memory(lambda: _pass(model, rows, rate))),
        "key_value_bytes": _key_value_bytes(model, packed),
    }


def _key_value_bytes(model: Forgetter, packed: Packed) -> float:
    """Return the bytes of keys and values of one window, after a pass that caches them."""
    cache = model.lm(
        input_ids=packed.input_ids,
        attention_mask=packed.attention_mask.long(),
        position_ids=packed.position_ids,
        use_cache=True,
    ).past_key_values
    per_position = cache_size(cache) / packed.input_ids.numel()
    return per_position * float(packed.lengths.float().mean())
