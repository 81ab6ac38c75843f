"""Every arm on the same targets, by teacher forcing, with intervals over documents."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import default_collate

from terse.errors import TerseError
from terse.evaluation.bits_per_byte import DocumentScores, bits_per_byte, ratio_of_sums, resampled
from terse.evaluation.measures import Measure
from terse.methods.compression.arms import ARMS, ScoredBatch, arms_of
from terse.methods.compression.cost import cost_measures
from terse.methods.compression.losses import divergence
from terse.methods.compression.model import Batch, Compressor
from terse.methods.compression.rows import ListedWindows

Floats = NDArray[np.float64]
FIELDS = tuple(Batch.__dataclass_fields__)
COLUMNS = ("nats", "top1", "top5", "kl")  # summed over the targets of each document


def evaluate_arms(model: Compressor, windows: ListedWindows, start: int) -> list[Measure]:
    """Return the measures of all arms.

    Loss in nats per target token, bits per byte, top-1 and top-5 accuracy, recovery, gain over the
    controls, divergence from the model with the whole context, and what each arm costs.
    start: the token that an empty context begins with.
    """
    totals, n_targets, n_bytes = score_arms(model, windows, start)
    measures = []
    for arm, sums in totals.items():
        scores = DocumentScores(sums[0], n_bytes, n_targets)
        measures += bits_per_byte(arm, scores)
        for name, top in zip(("accuracy_top1", "accuracy_top5"), sums[1:3], strict=True):
            measures.append(ratio_of_sums(arm, name, top, n_targets))
        if arm != "high":
            measures.append(ratio_of_sums(arm, "kl_nats", sums[3], n_targets))
    nats = {arm: sums[0] for arm, sums in totals.items()}
    measures += [recovery(arm, nats, n_targets) for arm in nats if arm not in ("low", "high")]
    measures += gains(nats, n_targets)
    return measures + cost_measures(model, windows)


def gains(nats: dict[str, Floats], n_targets: Floats) -> list[Measure]:
    """Return how far `compressed` is below each control, nats per target, document by document.

    Paired, so that these intervals say more than those of the arms themselves. nats: {arm: (D,)}.
    """
    controls = [arm for arm in nats if arm not in ("high", "compressed")]
    return [
        ratio_of_sums(
            "compressed", f"gain_over_{arm}_nats", nats[arm] - nats["compressed"], n_targets
        )
        for arm in controls
    ]


def score_arms(
    model: Compressor, windows: ListedWindows, start: int, batch_size: int | None = None
) -> tuple[dict[str, Floats], Floats, Floats]:
    """Return {arm: (nats, top1, top5, kl) x documents}, targets (D,) and their bytes (D,)."""
    size = batch_size or model.settings.val_batch_size or model.settings.batch_size
    n_documents = 1 + max(int(document) for document in documents_of(windows))
    totals = {arm: np.zeros((len(COLUMNS), n_documents)) for arm in arms_of(model)}
    counts = np.zeros((2, n_documents))
    with torch.inference_mode():
        for rows, others in paired_rows(windows, size):
            at = ScoredBatch(_batch(rows, model), _batch(others, model), start)
            documents = np.array([row["document"] for row in rows])
            np.add.at(counts[0], documents, at.batch.is_new.sum(1).cpu().numpy())
            np.add.at(counts[1], documents, [row["target_bytes"] for row in rows])
            full = ARMS["high"](model, at)
            for arm, total in totals.items():
                logits = full if arm == "high" else ARMS[arm](model, at)
                scores = window_scores(logits, full, at.batch)
                for column, values in zip(total, scores, strict=True):
                    np.add.at(column, documents, values.double().cpu().numpy())
    scored = counts[0] > 0
    return {arm: total[:, scored] for arm, total in totals.items()}, *counts[:, scored]


def window_scores(logits: Tensor, full: Tensor, batch: Batch) -> list[Tensor]:
    """Return nats, top-1 hits, top-5 hits and KL from `full`, (B,) each, over new tokens."""
    chosen = batch.is_new.bool()
    logits = logits.float()
    nats = nn.functional.cross_entropy(logits.transpose(1, 2), batch.target, reduction="none")
    best = logits.topk(min(5, logits.shape[-1])).indices == batch.target[..., None]  # (B, n, 5)
    hits = [best[..., 0], best.any(-1)]
    rows = zip(full.split(1), logits.split(1), chosen.split(1), strict=True)
    kl = torch.stack([divergence(*row) for row in rows])  # (B,)
    return [*((values * chosen).sum(1) for values in (nats, *hits)), kl]


def documents_of(windows: ListedWindows) -> list[int]:
    """Return the document of each window."""
    return [place[0] for place in windows.places]


def paired_rows(windows: ListedWindows, size: int) -> Iterator[tuple[list[Any], list[Any]]]:
    """Yield batches of windows, and for each window one of another document.

    Raises TerseError where there is only one document.
    """
    documents = documents_of(windows)
    if len(set(documents)) < 2:
        raise TerseError("the shuffled arm needs windows of two validation documents at least")
    n = len(documents)
    for first in range(0, n, size):
        chosen = range(first, min(first + size, n))
        yield [windows[i] for i in chosen], [windows[_other(documents, i)] for i in chosen]


def _other(documents: list[int], i: int) -> int:
    """Return a window of another document, half of all windows away or the next that fits."""
    n = len(documents)
    return next(
        j for j in ((i + n // 2 + step) % n for step in range(n)) if documents[j] != documents[i]
    )


def recovery(arm: str, nats: dict[str, Floats], n_targets: Floats) -> Measure:
    """Return R = (low - arm) / (low - high) with its 95 % interval over resampled documents.

    nats: {arm: (D,)}. NaN, and flagged, where the gap between low and high is within its own
    interval of nothing: then there is nothing to recover.
    """
    names = ("low", "high", arm)
    sums = [[nats[name][draws].sum(1) for name in names] for draws in resampled(len(n_targets))]
    low, high, own = (np.concatenate(column) for column in zip(*sums, strict=True))
    gap = low - high  # (resamples,)
    n = len(n_targets)
    if np.quantile(gap, 0.025) <= 0 <= np.quantile(gap, 0.975):
        return Measure(arm, "recovery", math.nan, n=n, flag="the gap is within its uncertainty")
    edges = np.quantile((low - own) / gap, [0.025, 0.975])
    value = (nats["low"] - nats[arm]).sum() / (nats["low"] - nats["high"]).sum()
    return Measure(arm, "recovery", float(value), float(edges[0]), float(edges[1]), n=n)


def _batch(rows: list[Any], model: Compressor) -> Batch:
    fields = default_collate([{name: row[name] for name in FIELDS} for row in rows])
    return Batch(**{name: tensor.to(model.vectors.device) for name, tensor in fields.items()})
