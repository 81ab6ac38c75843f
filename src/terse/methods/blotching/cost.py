"""What leaving steps out saves in training: tokens, FLOPs, and measured time."""

import copy
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from torch import Tensor, nn

from terse.evaluation.cost import interleaved
from terse.evaluation.flops import lm_flops
from terse.methods.blotching.blotches import Chain
from terse.methods.blotching.losses import token_nats
from terse.methods.blotching.model import Blotcher
from terse.methods.blotching.rows import IGNORED, Layout, RequestedRows, Row, collate

N_SHARES = 5
ROUNDS = 3


def cost_table(
    model: Blotcher, layout: Layout, chains: Sequence[Chain], *, rounds: int = ROUNDS
) -> pd.DataFrame:
    """Return what a training step costs at shares p of steps left out.

    Columns: p, evenly over 0 to 1 or over the shares that can be requested; tokens_per_chain
    (prefix included); forward_flops (mean over chains, of the forward pass); step_s (forward and
    backward pass of a batch, median of interleaved rounds on this machine); tokens_per_s; and the
    ratios of FLOPs and time to those of the smallest p.
    """
    s = layout.settings
    shares = np.linspace(s.blotch_p_min, s.blotch_p_max, N_SHARES).tolist()
    rows = {p: _rows(layout, chains, p) for p in shares}
    batches = {p: collate(chosen, 0) for p, chosen in rows.items()}
    seconds = step_seconds(model, batches, rounds, s.n_groups)
    cost = lm_flops(model.lm)
    found = []
    for p, batch in batches.items():
        n_tokens = int(batch["attention_mask"].sum())
        n_positions = [len(row["input_ids"]) for row in rows[p]]
        flops = cost.total(n_positions, batch["labels"].ne(IGNORED).sum(1))
        found.append(
            {
                "p": p,
                "tokens_per_chain": n_tokens / len(rows[p]),
                "forward_flops": flops.mean(),
                "step_s": seconds[p],
                "tokens_per_s": n_tokens / seconds[p],
            }
        )
    table = pd.DataFrame(found)
    table["forward_flops_ratio"] = table["forward_flops"] / table["forward_flops"].iloc[0]
    table["step_ratio"] = table["step_s"] / table["step_s"].iloc[0]
    return table


def step_seconds(
    model: Blotcher, batches: dict[float, dict[str, Tensor]], rounds: int, n_groups: int
) -> dict[float, float]:
    """Return the median seconds of a forward and backward pass of each batch, interleaved."""
    trained = copy.deepcopy(model).train().requires_grad_(True)
    device = next(trained.parameters()).device
    ways: dict[float, Callable[[], Tensor]] = {}
    for p, batch in batches.items():
        placed = {key: value.to(device) for key, value in batch.items()}
        ways[p] = lambda placed=placed: _step(trained, placed, n_groups)
    return interleaved(ways, rounds)


def _step(model: nn.Module, batch: dict[str, Tensor], n_groups: int) -> Tensor:
    model.zero_grad()
    loss = token_nats(model, batch, n_groups).sum()
    loss.backward()
    return loss.detach()


def _rows(layout: Layout, chains: Sequence[Chain], p: float) -> list[Row]:
    rows = RequestedRows(chains, layout, p)
    size = min(layout.settings.batch_size, len(rows))
    chosen = np.linspace(0, len(rows) - 1, size).astype(int)
    return [rows[int(i)] for i in chosen]
