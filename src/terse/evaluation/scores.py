"""Scores and costs of windows summed by document, and the measures computed from them."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terse.evaluation.measures import Measure

Floats = NDArray[np.float64]
Columns = Mapping[str, Floats]  # of one arm: the sums of each document, (D,) each
LN2 = math.log(2)
N_DRAWS, BLOCK = 2000, 1 << 22  # of documents; numbers in memory at a time


class DocumentSums:
    """The sums over the windows of each document, for each arm.

    An arm has those of these columns that are known: `nats` (of its targets), `n_targets`,
    `n_bytes` (UTF-8 bytes of the targets in the original text), `positions` (computed by its
    passes, without padding), `flops` (of these passes, see `terse.evaluation.flops`); and its
    method's own columns.
    """

    def __init__(self, n_documents: int) -> None:
        self.n_documents = n_documents
        self._totals: dict[str, dict[str, Floats]] = {}

    def add(self, arm: str, documents: Any, **columns: Any) -> None:
        """Add the values of windows of documents (B,), an array or tensor (B,) per column."""
        totals = self._totals.setdefault(arm, {})
        for name, values in columns.items():
            total = totals.setdefault(name, np.zeros(self.n_documents))
            np.add.at(total, np.asarray(documents), floats(values))

    @property
    def arms(self) -> list[str]:
        """The arms, in the order in which they were added."""
        return list(self._totals)

    def __getitem__(self, arm: str) -> dict[str, Floats]:
        """Return an arm's columns (D,), for the documents that have targets."""
        totals = self._totals[arm]
        scored = totals["n_targets"] > 0
        return {name: total[scored] for name, total in totals.items()}


def floats(values: Any) -> Floats:
    """Return a tensor on any device, an array, a list or a number as float64."""
    if hasattr(values, "detach"):
        values = values.detach().double().cpu().numpy()
    return np.asarray(values, dtype=np.float64)


def loss_measures(arm: str, of: Columns, targets: str, seed: int = 0) -> list[Measure]:
    """Return bits per byte and the loss per target, with intervals from resampled documents.

    targets: the value of that column.
    """
    about: dict[str, Any] = {"seed": seed, "targets": targets}
    return [
        ratio_of_sums(arm, "bits_per_byte", of["nats"] / LN2, of["n_bytes"], **about),
        ratio_of_sums(arm, "loss_nats", of["nats"], of["n_targets"], **about),
    ]


def cost_measures(arm: str, of: Columns, targets: str) -> list[Measure]:
    """Return positions and FLOPs per byte, with intervals from resampled documents.

    They count all passes that give the targets' likelihoods, per UTF-8 byte of the targets'
    original text: the context is counted once in each window, for the targets that follow it.
    """
    return [
        ratio_of_sums(arm, f"{name}_per_byte", of[name], of["n_bytes"], targets=targets)
        for name in ("positions", "flops")
    ]


def ratio_of_sums(
    arm: str, measure: str, top: Floats, bottom: Floats, seed: int = 0, targets: str = ""
) -> Measure:
    """Return sum(top) / sum(bottom) with its 95 % bootstrap interval over documents, (D,) both."""
    blocks = resampled(len(top), seed)
    ratios = [top[draws].sum(1) / bottom[draws].sum(1) for draws in blocks]
    low, high = np.quantile(np.concatenate(ratios), [0.025, 0.975])
    value = float(top.sum() / bottom.sum())
    return Measure(arm, measure, value, float(low), float(high), n=len(top), targets=targets)


def resampled(n_documents: int, seed: int = 0) -> Iterator[NDArray[np.int64]]:
    """Yield 2000 draws of documents with replacement, some (n, D) at a time, always the same ones.

    Each takes about 32 MiB, however many documents there are.
    """
    draw = np.random.default_rng(seed)
    n = max(1, BLOCK // n_documents)
    for start in range(0, N_DRAWS, n):
        yield draw.integers(n_documents, size=(min(n, N_DRAWS - start), n_documents))


def all_text(corpus: str | None) -> str:
    """Return the value of `targets` for a corpus' entire validation text, each token once."""
    return f"all validation documents of {corpus}"
