"""Sums over documents of what windows cost, and the measures that follow from them."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terse.evaluation.measures import Measure

Floats = NDArray[np.float64]
Columns = Mapping[str, Floats]  # of one arm: what each document adds up to, (D,) each
LN2 = math.log(2)
N_DRAWS, BLOCK = 2000, 1 << 22  # of documents; numbers in memory at a time


class DocumentSums:
    """What the windows of each document add up to, for each arm.

    An arm has the columns `nats` (of its targets), `n_targets`, `n_bytes` (UTF-8 bytes of the
    targets in the original text), `positions` (that its passes compute, padding left out) and
    `flops` (of these passes, see `terse.evaluation.flops`), as far as they are known, and any of
    its method's own.
    """

    def __init__(self, n_documents: int) -> None:
        self.n_documents = n_documents
        self._totals: dict[str, dict[str, Floats]] = {}

    def add(self, arm: str, documents: Any, **columns: Any) -> None:
        """Add what windows (B,) of documents (B,) cost, an array or tensor (B,) per column."""
        totals = self._totals.setdefault(arm, {})
        for name, values in columns.items():
            total = totals.setdefault(name, np.zeros(self.n_documents))
            np.add.at(total, np.asarray(documents), floats(values))

    @property
    def arms(self) -> list[str]:
        """The arms, in the order in which they came."""
        return list(self._totals)

    def __getitem__(self, arm: str) -> dict[str, Floats]:
        """Return an arm's columns, (D,) each: of the documents that have targets."""
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

    targets: what they are over, for the column of that name.
    """
    about: dict[str, Any] = {"seed": seed, "targets": targets}
    return [
        ratio_of_sums(arm, "bits_per_byte", of["nats"] / LN2, of["n_bytes"], **about),
        ratio_of_sums(arm, "loss_nats", of["nats"], of["n_targets"], **about),
    ]


def cost_measures(arm: str, of: Columns, targets: str) -> list[Measure]:
    """Return positions and FLOPs per byte, with intervals from resampled documents.

    Of all passes that give the targets' likelihoods, per UTF-8 byte of the targets' original text:
    a context is paid for by the targets that it stands before, once in each window.
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
    """Yield 2000 draws of documents with replacement, some (n, D) at a time; the same each time.

    About 32 MiB each, however many documents there are.
    """
    draw = np.random.default_rng(seed)
    n = max(1, BLOCK // n_documents)
    for start in range(0, N_DRAWS, n):
        yield draw.integers(n_documents, size=(min(n, N_DRAWS - start), n_documents))


def all_text(corpus: str | None) -> str:
    """Return how the `targets` column calls a corpus' whole validation text, each token once."""
    return f"all validation documents of {corpus}"
