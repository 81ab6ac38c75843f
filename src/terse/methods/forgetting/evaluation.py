"""The honest score: what all original targets cost, every arm on the same ones."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, default_collate
from transformers import PreTrainedModel

from terse.evaluation.bits_per_byte import DocumentScores, bits_per_byte, ratio_of_sums
from terse.evaluation.measures import Measure
from terse.methods.forgetting.baselines import SaliencyMask
from terse.methods.forgetting.decisions import decide
from terse.methods.forgetting.masks import Mask
from terse.methods.forgetting.model import Forgetter
from terse.methods.forgetting.modes import Scores, decided, score
from terse.methods.forgetting.packing import Rows

Floats = NDArray[np.float64]
FIELDS = ("input_ids", "attention_mask", "is_target")
# Summed over the windows of each document.
COLUMNS = ("nats", "hits", "dropped", "free", "positions", "told_bits")
MAIN = "mask"  # the arm of the run's own mask
COMPARED = ("random", "recency", "sink_recency", "norm", "surprisal")
KNOWN = ("false_drops", "true_drops", "missed")  # against a task's own answer


@dataclass(frozen=True)
class Evaluated:
    """A trained model, and all that it is scored with.

    arms: the masks it is compared with. rows: windows. before: its base, untouched by the training.
    """

    model: Forgetter
    arms: dict[str, Mask]
    rows: Dataset[Any]
    before: PreTrainedModel | None
    device: str

    @property
    def batch_size(self) -> int:
        s = self.model.settings
        return s.val_batch_size or s.batch_size


@dataclass
class Totals:
    """Sums over each document of what arms cost, {arm: (columns, D)}."""

    n_documents: int
    by_arm: dict[str, Floats] = field(default_factory=dict)

    def add(self, arm: str, documents: Any, columns: list[Tensor]) -> None:
        """Add what windows (B,) of documents (B,) cost, a tensor (B,) per column."""
        total = self.by_arm.setdefault(arm, np.zeros((len(columns), self.n_documents)))
        for row, values in zip(total, columns, strict=True):
            np.add.at(row, documents, values.double().cpu().numpy())


def name_of(arm: str, rate: float) -> str:
    """Return an arm's name at a forget rate."""
    return f"{arm}-f{rate:g}"


def batches(given: Evaluated) -> Iterator[tuple[Rows, list[dict[str, Any]]]]:
    """Yield the windows in batches, on the device, and their items."""
    n, size = len(given.rows), given.batch_size  # type: ignore[arg-type]
    for first in range(0, n, size):
        items = [given.rows[i] for i in range(first, min(first + size, n))]
        yield rows_of(items, given.device), items


def rows_of(items: list[dict[str, Any]], device: str) -> Rows:
    """Return items of a data set as rows on a device."""
    fields = default_collate([{name: item[name] for name in FIELDS} for item in items])
    return Rows(**{name: tensor.to(device) for name, tensor in fields.items()})


@torch.no_grad()
def score_arms(given: Evaluated) -> tuple[Totals, Totals, Floats, Floats]:
    """Return totals of the arms (`COLUMNS`), of the kept-only loss, and targets, bytes (D,)."""
    n_documents = 1 + max(int(given.rows[i]["document"]) for i in _ends(given.rows))
    totals, kept_only = Totals(n_documents), Totals(n_documents)
    counts = np.zeros((2, n_documents))
    for rows, items in batches(given):
        documents = np.array([item["document"] for item in items])
        np.add.at(counts[0], documents, rows.is_target.sum(1).cpu().numpy())
        np.add.at(counts[1], documents, [item["target_bytes"] for item in items])
        for arm, keep, scores, told in arms_of(given, rows):
            totals.add(arm, documents, _columns(given.model, rows, keep, scores, told))
        if given.model.settings.decides_at_once:
            for arm, keep in own_decisions(given, rows, "pack"):
                found = given.model.score(rows, keep, "pack")
                kept_only.add(arm, documents, [found.nats.sum(1), found.scored.sum(1)])
        for arm, keep in own_decisions(given, rows):
            if "is_filler" in items[0]:
                totals.add(f"{arm}?", documents, _answers(given.model, rows, keep, items))
    scored = counts[0] > 0
    for some in (totals, kept_only):
        some.by_arm = {arm: total[:, scored] for arm, total in some.by_arm.items()}
    return totals, kept_only, *counts[:, scored]


def _ends(rows: Dataset[Any]) -> tuple[int, int]:
    return 0, len(rows) - 1  # type: ignore[arg-type]


def arms_of(given: Evaluated, rows: Rows) -> Iterator[tuple[str, Tensor, Scores, float]]:
    """Yield each arm's name, decisions (B, T), scores, and bits told per droppable token."""
    model = given.model
    every = torch.ones_like(rows.attention_mask)
    yield "identity", every, model.score(rows, every, "prefix"), 0.0
    if given.before is not None:
        yield "base", every, score(given.before, rows, every, "prefix", pad_id=model.pad_id), 0.0
    for arm, keep in own_decisions(given, rows):
        yield arm, keep, model.score(rows, keep, "prefix"), 0.0
    free, where = model.free_tokens(rows, "prefix"), decided(rows, "prefix")
    for name, mask in given.arms.items():
        logits = mask.logits(rows, where)
        for rate in model.settings.eval_rates:
            keep = decide(logits, "topk", droppable=free, forget_p=rate)
            told = binary_entropy(rate) if isinstance(mask, SaliencyMask) else 0.0
            yield name_of(name, rate), keep, model.score(rows, keep, "prefix"), told


def own_decisions(
    given: Evaluated, rows: Rows, mode: str = "prefix"
) -> Iterator[tuple[str, Tensor]]:
    """Yield the decisions (B, T) of the run's own mask at each forget rate, none of identity's."""
    if given.model.settings.mask == "identity":
        return
    for rate in given.model.settings.eval_rates:
        yield name_of(MAIN, rate), given.model.decisions(rows, mode, rate)


def binary_entropy(p: float) -> float:
    """Return H(p) in bits: what it takes to tell a reader one choice that it cannot make itself."""
    return 0.0 if p in (0.0, 1.0) else -(p * math.log2(p) + (1 - p) * math.log2(1 - p))


def _columns(
    model: Forgetter, rows: Rows, keep: Tensor, scores: Scores, told: float
) -> list[Tensor]:
    free = model.free_tokens(rows, "prefix")
    left = rows.attention_mask & (keep | ~free)
    return [
        scores.nats.sum(1), scores.hit.sum(1), (free & ~keep).sum(1), free.sum(1), left.sum(1),
        told * free.sum(1),
    ]  # fmt: skip


def _answers(
    model: Forgetter, rows: Rows, keep: Tensor, items: list[dict[str, Any]]
) -> list[Tensor]:
    """Return the fillers dropped, what else was, and the fillers kept, (B,) each (`KNOWN`)."""
    free = model.free_tokens(rows, "prefix")
    filler = torch.stack([item["is_filler"] for item in items]).to(keep.device) & free
    dropped = free & ~keep
    return [(dropped & ~filler).sum(1), (dropped & filler).sum(1), (filler & ~dropped).sum(1)]


def evaluate_arms(given: Evaluated) -> list[Measure]:
    """Return the measures of all arms, with 95 % intervals from resampled documents."""
    totals, kept_only, n_targets, n_bytes = score_arms(given)
    measures: list[Measure] = []
    for arm, columns in totals.by_arm.items():
        if arm.endswith("?"):
            measures += _known_answers(arm.removesuffix("?"), columns)
        else:
            measures += _of_arm(arm, dict(zip(COLUMNS, columns, strict=True)), n_targets, n_bytes)
    measures += _over_identity(totals, n_bytes)
    for rate in given.model.settings.eval_rates:
        measures += _gains(totals, rate, n_bytes)
    for arm, (nats, n_kept) in kept_only.by_arm.items():
        found = ratio_of_sums(arm, "kept_only_loss_nats", nats, np.maximum(n_kept, 1e-9))
        measures.append(_flagged(found, "not comparable: each mask chooses its own targets"))
    return measures


def _of_arm(arm: str, of: dict[str, Floats], n_targets: Floats, n_bytes: Floats) -> list[Measure]:
    nats = of["nats"] + of["told_bits"] * math.log(2)
    measures = bits_per_byte(arm, DocumentScores(nats, n_bytes, n_targets))
    loss = measures[-1]
    edges = (math.exp(x) for x in (loss.value, loss.interval_low, loss.interval_high))
    measures.append(Measure(arm, "perplexity", *edges, n=loss.n))
    measures.append(ratio_of_sums(arm, "accuracy", of["hits"], n_targets))
    measures.append(ratio_of_sums(arm, "positions_per_byte", of["positions"], n_bytes))
    if of["free"].sum():
        rate = float(of["dropped"].sum() / of["free"].sum())
        measures.append(Measure(arm, "forget_rate", rate, n=len(n_bytes)))
    if of["told_bits"].any():
        plain = ratio_of_sums(arm, "unpaid_bits_per_byte", of["nats"] / math.log(2), n_bytes)
        measures.append(_flagged(plain, "not comparable: it has seen the targets"))
    return measures


def _over_identity(totals: Totals, n_bytes: Floats) -> list[Measure]:
    """Return how far each arm is above the whole context in bits per byte, document by document."""
    identity = totals.by_arm["identity"]
    return [
        ratio_of_sums(
            arm, "over_identity_bits_per_byte",
            (columns[0] - identity[0]) / math.log(2) + columns[COLUMNS.index("told_bits")], n_bytes,
        )
        for arm, columns in totals.by_arm.items()
        if arm != "identity" and not arm.endswith("?")
    ]  # fmt: skip


def _gains(totals: Totals, rate: float, n_bytes: Floats) -> list[Measure]:
    """Return how far the own mask is below others in bits per byte, document by document."""
    own = totals.by_arm.get(name_of(MAIN, rate))
    if own is None:
        return []
    others = {f"gain_over_{arm}": name_of(arm, rate) for arm in COMPARED}
    return [
        ratio_of_sums(
            name_of(MAIN, rate), f"{measure}_bits_per_byte",
            (totals.by_arm[arm][0] - own[0]) / math.log(2), n_bytes,
        )
        for measure, arm in others.items()
    ]  # fmt: skip


def _known_answers(arm: str, columns: Floats) -> list[Measure]:
    """Return precision and recall of what was dropped, where the answer is known."""
    wrong, right, missed = columns
    found = []
    if (right + wrong).sum():
        found.append(Measure(arm, "filler_precision", float(right.sum() / (right + wrong).sum())))
    if (right + missed).sum():
        found.append(Measure(arm, "filler_recall", float(right.sum() / (right + missed).sum())))
    return found


def _flagged(measure: Measure, flag: str) -> Measure:
    return Measure(**{**vars(measure), "flag": flag})
