"""Scores of every arm on the same targets by teacher forcing, with intervals over documents."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import default_collate

from terse.errors import TerseError
from terse.evaluation.measures import Measure
from terse.evaluation.scores import (
    DocumentSums,
    cost_measures,
    loss_measures,
    ratio_of_sums,
    resampled,
)
from terse.machine.progress import shown
from terse.methods.compression.arms import ARMS, ScoredBatch, arms_of
from terse.methods.compression.cost import ArmCosts, context_measures
from terse.methods.compression.losses import divergence
from terse.methods.compression.model import Batch, Compressor, left_aligned
from terse.methods.compression.rows import ListedWindows

Floats = NDArray[np.float64]
FIELDS = tuple(Batch.__dataclass_fields__)
COLUMNS = ("nats", "top1", "top5", "kl")  # of a window, summed over its targets


def evaluate_arms(model: Compressor, windows: ListedWindows, start: int) -> list[Measure]:
    """Return the measures of all arms.

    Loss in nats per target token, bits per byte, positions and FLOPs per byte, top-1 and top-5
    accuracy, recovery, gain over the controls, divergence from the model with the whole context,
    and the storage of a context. start: the token with which an empty context begins.
    """
    sums, targets = score_arms(model, windows, start), targets_of(model, windows)
    measures: list[Measure] = []
    for arm in sums.arms:
        of = sums[arm]
        measures += loss_measures(arm, of, targets) + cost_measures(arm, of, targets)
        ratios = {"accuracy_top1": "top1", "accuracy_top5": "top5", "kl_nats": "kl"}
        measures += [
            ratio_of_sums(arm, name, of[column], of["n_targets"], targets=targets)
            for name, column in ratios.items()
            if (arm, column) != ("high", "kl")
        ]
    nats, n_targets = {arm: sums[arm]["nats"] for arm in sums.arms}, sums["high"]["n_targets"]
    found = [recovery(arm, nats, n_targets) for arm in nats if arm not in ("low", "high")]
    found += gains(nats, n_targets)
    measures += [replace(m, targets=targets) for m in found] + context_measures(model, windows)
    return measures + (reproduction_measures(model, windows) if model.reproduces else [])


def reproduction_measures(model: Compressor, windows: ListedWindows) -> list[Measure]:
    """Return how well held-out contexts are reproduced from their vectors, by teacher forcing.

    Loss in nats per context token, top-1 and top-5 accuracy, of `remembered` and, as a control, of
    `remembered_shuffled`: the vectors of another document's context.
    """
    size = model.settings.val_batch_size or model.settings.batch_size
    sums = DocumentSums(1 + max(documents_of(windows)))
    with torch.inference_mode():
        for rows, others in paired_rows(windows, size):
            tokens, mask = left_aligned(batch := _batch(rows, model))
            for arm, of in (("remembered", batch), ("remembered_shuffled", _batch(others, model))):
                prefix = model.prefix(model.compress(of.context, of.context_mask), "remember")
                hits = target_scores(model.read(prefix, tokens, mask), tokens, mask.bool())
                columns = dict(zip(COLUMNS, hits, strict=False))
                sums.add(arm, [row["document"] for row in rows], n_targets=mask.sum(1), **columns)
    s = model.settings
    targets = (
        f"the {s.n_context} tokens of context themselves, {len(windows)} windows of {s.corpus}"
    )
    names = {"loss_nats": "nats", "accuracy_top1": "top1", "accuracy_top5": "top5"}
    return [
        ratio_of_sums(arm, name, sums[arm][column], sums[arm]["n_targets"], targets=targets)
        for arm in sums.arms
        for name, column in names.items()
    ]


def targets_of(model: Compressor, windows: ListedWindows) -> str:
    """Return the value of `targets` for what the arms are scored on."""
    lengths, corpus = windows.lengths, model.settings.corpus
    what = f"up to {lengths.new} new tokens after" if lengths.new else "the context itself in"
    return (
        f"{what} {lengths.context} of context, {len(windows)} windows of the validation documents "
        f"of {corpus}"
    )


def gains(nats: dict[str, Floats], n_targets: Floats) -> list[Measure]:
    """Return how far `compressed` is below each control, nats per target, paired by document.

    Pairing makes these intervals tighter than those of the arms themselves. nats: {arm: (D,)}.
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
) -> DocumentSums:
    """Return the sums of all arms: nats, top1, top5 and kl of the targets, and the costs."""
    size = batch_size or model.settings.val_batch_size or model.settings.batch_size
    sums, costs = DocumentSums(1 + max(documents_of(windows))), ArmCosts.of(model)
    with torch.inference_mode():
        for rows, others in paired_rows(windows, size):
            at = ScoredBatch(_batch(rows, model), _batch(others, model), start)
            documents = [row["document"] for row in rows]
            n_bytes = [row["target_bytes"] for row in rows]
            full = ARMS["high"](model, at)
            for arm in arms_of(model):
                logits = full if arm == "high" else ARMS[arm](model, at)
                scores = window_scores(logits, full, at.batch)
                positions, flops = costs.of_arm(arm, at)
                sums.add(
                    arm, documents, n_targets=at.batch.is_new.sum(1), n_bytes=n_bytes,
                    positions=positions, flops=flops, **dict(zip(COLUMNS, scores, strict=True)),
                )  # fmt: skip
    return sums


def window_scores(logits: Tensor, full: Tensor, batch: Batch) -> list[Tensor]:
    """Return nats, top-1 hits, top-5 hits and KL from `full`, (B,) each, over new tokens."""
    chosen = batch.is_new.bool()
    logits = logits.float()
    rows = zip(full.split(1), logits.split(1), chosen.split(1), strict=True)
    kl = torch.stack([divergence(*row) for row in rows])  # (B,)
    return [*target_scores(logits, batch.target, chosen), kl]


def target_scores(logits: Tensor, target: Tensor, chosen: Tensor) -> list[Tensor]:
    """Return nats, top-1 hits and top-5 hits, (B,) each, over the chosen ones of targets (B, n)."""
    logits = logits.float()
    nats = nn.functional.cross_entropy(logits.transpose(1, 2), target, reduction="none")
    best = logits.topk(min(5, logits.shape[-1])).indices == target[..., None]  # (B, n, 5)
    return [(values * chosen).sum(1) for values in (nats, best[..., 0], best.any(-1))]


def documents_of(windows: ListedWindows) -> list[int]:
    """Return the document of each window."""
    return [int(place[0]) for place in windows.places]


def paired_rows(windows: ListedWindows, size: int) -> Iterator[tuple[list[Any], list[Any]]]:
    """Yield batches of windows, and for each window one of another document.

    Raises TerseError if there is only one document.
    """
    documents = documents_of(windows)
    if len(set(documents)) < 2:
        raise TerseError("the shuffled arm needs windows of at least two validation documents")
    n = len(documents)
    for first in shown(range(0, n, size), "scoring windows"):
        chosen = range(first, min(first + size, n))
        yield [windows[i] for i in chosen], [windows[_other(documents, i)] for i in chosen]


def _other(documents: list[int], i: int) -> int:
    """Return a window of another document, half of all windows away or the next suitable one."""
    n = len(documents)
    return next(
        j for j in ((i + n // 2 + step) % n for step in range(n)) if documents[j] != documents[i]
    )


def recovery(arm: str, nats: dict[str, Floats], n_targets: Floats) -> Measure:
    """Return R = (low - arm) / (low - high) with its 95 % interval over resampled documents.

    nats: {arm: (D,)}. NaN and flagged where the interval of the gap between low and high contains
    zero: then there is nothing to recover.
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
