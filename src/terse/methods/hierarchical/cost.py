"""The cost of text likelihoods: positions and FLOPs, counted in passes over some rows."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from terse.evaluation.flops import counted
from terse.evaluation.measures import Measure
from terse.evaluation.scores import DocumentSums, cost_measures
from terse.methods.hierarchical.compressor import Segments
from terse.methods.hierarchical.likelihoods import causal_nats, two_part
from terse.methods.hierarchical.model import HierarchicalAutoencoder
from terse.methods.hierarchical.rows import ScoringRows
from terse.methods.hierarchical.settings import PAD

N_COUNTED = 32  # rows


def row_costs(
    model: HierarchicalAutoencoder, rows: ScoringRows, arm: str, targets: str
) -> list[Measure]:
    """Return positions and FLOPs per byte of an arm (see `PASSES`) on some rows, evenly spread.

    Positions are the symbols that each level's compressor and expander read, including those of
    context repeated from the previous row, and the top LM's segments and BOS.
    """
    n = min(N_COUNTED, len(rows))
    items = [rows[i * len(rows) // n] for i in range(n)]
    sums = DocumentSums(1 + max(item["document"] for item in items))
    plain = copy.deepcopy(model).cpu()  # the counter knows all kernels that it calls there
    for item in items:
        ids = item["ids"][item["ids"] != PAD][None]
        positions, flops = row_cost(plain, ids, PASSES[arm])
        n_bytes = [item["n_bytes"]]
        sums.add(
            arm, [item["document"]], n_targets=n_bytes, n_bytes=n_bytes, positions=[positions],
            flops=[flops],
        )  # fmt: skip
    return cost_measures(arm, sums[arm], targets)


def row_cost(
    model: HierarchicalAutoencoder,
    ids: Tensor,
    likelihood: Callable[[HierarchicalAutoencoder, Tensor], object],
) -> tuple[int, int]:
    """Return the positions and the FLOPs of one of the `PASSES` over a row without padding, (1, S).

    FLOPs depend on the number of segments, which only the model determines.
    """
    flops = counted(lambda: likelihood(model, ids))
    with torch.no_grad():
        levels = model.encode(ids)
    read = sum(level.sequence.digits.shape[1] for level in levels)
    written = read - len(levels)  # the last symbol predicts nothing
    top = 0 if model.top is None else 1 + levels[-1].rows.shape[1]
    return read + written + top, flops


def reconstruction(model: HierarchicalAutoencoder, levels: list[Segments]) -> Tensor:
    """Return the cost of each row's bytes given their codes at the lowest level, (B,) nats."""
    states = None if model.context is None else model.code_lm(levels[-1].rows)
    rows = levels[0].rows if len(levels) > 1 else model.memory(levels[0], states)
    return model.reconstruction_nats(0, levels[0], rows).sum(1)


# causal: each byte given those before. two_part: codes, then the text given the codes. model: the
# text given its lowest codes, the only likelihood of a first stage.
PASSES: dict[str, Callable[[HierarchicalAutoencoder, Tensor], object]] = {
    "causal": causal_nats,
    "two_part": lambda model, ids: two_part(model, model.encode(ids)),
    "model": lambda model, ids: reconstruction(model, model.encode(ids)),
}
