"""What leaving steps out saves in training: tokens, arithmetic, and measured time."""

import copy
import statistics
import time
from collections.abc import Sequence

import numpy as np
import pandas as pd
from torch import Tensor, nn

from terse.methods.blotching.blotches import Chain
from terse.methods.blotching.losses import token_nats
from terse.methods.blotching.model import Blotcher
from terse.methods.blotching.rows import Layout, RequestedRows, collate

N_SHARES = 5
ROUNDS = 3


def cost_table(
    model: Blotcher, layout: Layout, chains: Sequence[Chain], *, rounds: int = ROUNDS
) -> pd.DataFrame:
    """Return what a training step costs at shares p of steps left out.

    Columns: p, evenly over 0 to 1 or over what may be asked for; tokens_per_chain (prefix
    included); theory_ratio (multiplications of these tokens against the least p, attention's square
    included); step_s (forward and backward pass of a batch,
    median of interleaved rounds on this machine); step_ratio; tokens_per_s.
    """
    s = layout.settings
    shares = np.linspace(s.blotch_p_min, s.blotch_p_max, N_SHARES).tolist()
    batches = {p: _batch(layout, chains, p) for p in shares}
    seconds = step_seconds(model, batches, rounds, s.n_groups)
    rows = []
    for p, batch in batches.items():
        lengths = batch["attention_mask"].sum(1)
        n_tokens = int(lengths.sum())
        rows.append(
            {
                "p": p,
                "tokens_per_chain": n_tokens / len(batch["input_ids"]),
                "multiplications": multiplications(model, lengths),
                "step_s": seconds[p],
                "tokens_per_s": n_tokens / seconds[p],
            }
        )
    table = pd.DataFrame(rows)
    table["theory_ratio"] = table["multiplications"] / table["multiplications"].iloc[0]
    table["step_ratio"] = table["step_s"] / table["step_s"].iloc[0]
    return table.drop(columns="multiplications")


def multiplications(model: Blotcher, lengths: Tensor) -> float:
    """Return those of a forward pass over sequences of lengths (B,): matrices, and T^2.

    Tables that rows are only looked up in have none.
    """
    head = model.lm.get_output_embeddings()
    tables = [m.weight for m in model.lm.modules() if isinstance(m, nn.Embedding)]
    looked_up = {id(table) for table in tables} - {id(getattr(head, "weight", None))}
    matrices = sum(
        p.numel() for p in model.lm.parameters() if p.ndim == 2 and id(p) not in looked_up
    )
    config = model.lm.config.get_text_config()
    attention = config.num_hidden_layers * config.hidden_size  # causal: half of 2 T^2 H
    tokens = lengths.double()
    return float((tokens * matrices + tokens**2 * attention).sum())


def step_seconds(
    model: Blotcher, batches: dict[float, dict[str, Tensor]], rounds: int, n_groups: int
) -> dict[float, float]:
    """Return the median seconds of a forward and backward pass of each batch, taken in turn."""
    trained = copy.deepcopy(model).train().requires_grad_(True)
    device = next(trained.parameters()).device
    found: dict[float, list[float]] = {p: [] for p in batches}
    for number in range(rounds + 1):
        for p, batch in batches.items():
            placed = {key: value.to(device) for key, value in batch.items()}
            begin = time.perf_counter()
            _step(trained, placed, n_groups)
            if number:  # the first warms up
                found[p].append(time.perf_counter() - begin)
    return {p: statistics.median(times) for p, times in found.items()}


def _step(model: nn.Module, batch: dict[str, Tensor], n_groups: int) -> None:
    model.zero_grad()
    loss = token_nats(model, batch, n_groups).sum()
    loss.backward()
    loss.item()  # waits for the device


def _batch(layout: Layout, chains: Sequence[Chain], p: float) -> dict[str, Tensor]:
    rows = RequestedRows(chains, layout, p)
    size = min(layout.settings.batch_size, len(rows))
    chosen = np.linspace(0, len(rows) - 1, size).astype(int)
    return collate([rows[int(i)] for i in chosen], 0)
