"""The honest score: the cost of all original targets, the same ones for every arm."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate
from transformers import PreTrainedModel

from terse.evaluation.flops import PassFlops, lm_flops
from terse.evaluation.measures import Measure
from terse.evaluation.scores import (
    LN2,
    Columns,
    DocumentSums,
    all_text,
    cost_measures,
    loss_measures,
    ratio_of_sums,
)
from terse.machine.progress import shown
from terse.methods.forgetting.baselines import SaliencyMask
from terse.methods.forgetting.cost import mask_flops
from terse.methods.forgetting.decisions import decide
from terse.methods.forgetting.masks import Mask
from terse.methods.forgetting.model import Forgetter
from terse.methods.forgetting.modes import Scores, decided, score
from terse.methods.forgetting.packing import Rows

FIELDS = ("input_ids", "attention_mask", "is_target")
MAIN = "mask"  # the arm of the run's mask
COMPARED = ("random", "recency", "sink_recency", "norm", "surprisal")


@dataclass(frozen=True)
class Evaluated:
    """A trained model, and everything it is scored with.

    arms: the masks it is compared with. rows: windows. before: its base before the training.
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


def name_of(arm: str, rate: float) -> str:
    """Return an arm's name at a forget rate."""
    return f"{arm}-f{rate:g}"


def batches(given: Evaluated) -> Iterator[tuple[Rows, list[dict[str, Any]]]]:
    """Yield the windows in batches, on the device, and their items."""
    n, size = len(given.rows), given.batch_size  # type: ignore[arg-type]
    for first in shown(range(0, n, size), "scoring windows"):
        items = [given.rows[i] for i in range(first, min(first + size, n))]
        yield rows_of(items, given.device), items


def rows_of(items: list[dict[str, Any]], device: str) -> Rows:
    """Return items of a data set as rows on a device."""
    fields = default_collate([{name: item[name] for name in FIELDS} for item in items])
    return Rows(**{name: tensor.to(device) for name, tensor in fields.items()})


def fullest(given: Evaluated) -> Rows:
    """Return the first batch of windows with a full context, or with the longest available."""
    n = min(len(given.rows), 16 * given.batch_size)  # type: ignore[arg-type]
    items = [given.rows[i] for i in range(n)]
    items.sort(key=lambda item: -int(item["attention_mask"].sum()))
    return rows_of(items[: given.batch_size], given.device)


@torch.no_grad()
def score_arms(given: Evaluated) -> DocumentSums:
    """Return the sums of all arms; those of the own mask include the loss of kept targets alone.

    hits: targets that were the most likely token. dropped, free: context tokens that are, and that
    may be dropped. told_bits: the bits that tell a reader the choice. kept_nats, n_kept: of targets
    that a packed row predicts. false_drops, true_drops, missed: against a task's known answer.
    """
    sums = DocumentSums(1 + max(int(given.rows[i]["document"]) for i in _ends(given.rows)))
    reading, deciding = lm_flops(given.model.lm), _deciding(given)
    for rows, items in batches(given):
        documents = [item["document"] for item in items]
        n_bytes = [item["target_bytes"] for item in items]
        for arm, keep, scores, told in arms_of(given, rows):
            found = _columns(given.model, rows, keep, scores, told)
            flops = reading.total(found["positions"], found["n_targets"])
            if arm in deciding:
                flops += deciding[arm].total(rows.attention_mask.sum(1), found["n_targets"])
            sums.add(arm, documents, n_bytes=n_bytes, flops=flops, **found)
        if given.model.settings.decides_at_once:
            for arm, keep in own_decisions(given, rows, "pack"):
                kept = given.model.score(rows, keep, "pack")
                sums.add(arm, documents, kept_nats=kept.nats.sum(1), n_kept=kept.scored.sum(1))
        if "is_filler" in items[0]:
            for arm, keep in own_decisions(given, rows):
                sums.add(arm, documents, **_answers(given.model, rows, keep, items))
    return sums


def _deciding(given: Evaluated) -> dict[str, PassFlops]:
    """Return the cost of each arm's mask that computes anything; it runs once per rate."""
    masks = {**given.arms, MAIN: given.model.mask}
    costs = {arm: mask_flops(mask, given.device) for arm, mask in masks.items()}
    return {
        name_of(arm, r): cost
        for arm, cost in costs.items()
        for r in given.model.settings.eval_rates
    }


def _ends(rows: Dataset[Any]) -> tuple[int, int]:
    return 0, len(rows) - 1  # type: ignore[arg-type]


def arms_of(given: Evaluated, rows: Rows) -> Iterator[tuple[str, Tensor, Scores, float]]:
    """Yield each arm's name, decisions (B, T), scores, and bits sent per droppable token."""
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
    """Yield the decisions (B, T) of the run's mask at each forget rate; none if it is identity."""
    if given.model.settings.mask == "identity":
        return
    for rate in given.model.settings.eval_rates:
        yield name_of(MAIN, rate), given.model.decisions(rows, mode, rate)


def binary_entropy(p: float) -> float:
    """Return H(p) in bits: the cost of sending one choice to a reader that cannot make it."""
    return 0.0 if p in (0.0, 1.0) else -(p * math.log2(p) + (1 - p) * math.log2(1 - p))


def _columns(
    model: Forgetter, rows: Rows, keep: Tensor, scores: Scores, told: float
) -> dict[str, Tensor]:
    free = model.free_tokens(rows, "prefix")
    left = rows.attention_mask & (keep | ~free)
    return {
        "nats": scores.nats.sum(1),
        "n_targets": rows.is_target.sum(1),
        "hits": scores.hit.sum(1),
        "dropped": (free & ~keep).sum(1),
        "free": free.sum(1),
        "positions": left.sum(1),
        "told_bits": told * free.sum(1),
    }


def _answers(
    model: Forgetter, rows: Rows, keep: Tensor, items: list[dict[str, Any]]
) -> dict[str, Tensor]:
    """Return the numbers of fillers dropped, other tokens dropped, and fillers kept, (B,) each."""
    free = model.free_tokens(rows, "prefix")
    filler = torch.stack([item["is_filler"] for item in items]).to(keep.device) & free
    dropped = free & ~keep
    return {
        "false_drops": (dropped & ~filler).sum(1),
        "true_drops": (dropped & filler).sum(1),
        "missed": (filler & ~dropped).sum(1),
    }


def evaluate_arms(given: Evaluated) -> list[Measure]:
    """Return the measures of all arms, with 95 % intervals from resampled documents."""
    sums, targets = score_arms(given), targets_of(given)
    measures: list[Measure] = []
    for arm in sums.arms:
        measures += _of_arm(arm, sums[arm], targets)
    measures += _over_identity(sums)
    for rate in given.model.settings.eval_rates:
        measures += _gains(sums, rate)
    measures = [replace(m, targets=targets) for m in measures]
    for arm, of in ((arm, sums[arm]) for arm in sums.arms):
        if "n_kept" in of:
            n_kept = np.maximum(of["n_kept"], 1e-9)
            found = ratio_of_sums(
                arm,
                "kept_only_loss_nats",
                of["kept_nats"],
                n_kept,
                targets=f"kept ones of {targets}",
            )
            measures.append(_flagged(found, "not comparable: each mask chooses its own targets"))
    return measures


def targets_of(given: Evaluated) -> str:
    """Return the value of `targets` for what the arms are scored on."""
    s, n = given.model.settings, len(given.rows)  # type: ignore[arg-type]
    if s.task:
        return f"the last {s.block_len} tokens of {n} windows of the task {s.task}"
    n_all = getattr(given.rows, "n_all", n)
    if n == n_all:
        return all_text(s.corpus)
    return (
        f"{n} of {n_all} blocks of up to {s.block_len} tokens of the validation documents of "
        f"{s.corpus}"
    )


def _of_arm(arm: str, of: Columns, targets: str) -> list[Measure]:
    paid = {**of, "nats": of["nats"] + of["told_bits"] * LN2}
    measures = loss_measures(arm, paid, targets)
    loss = measures[-1]
    edges = (math.exp(x) for x in (loss.value, loss.interval_low, loss.interval_high))
    measures.append(Measure(arm, "perplexity", *edges, n=loss.n))
    measures.append(ratio_of_sums(arm, "accuracy", of["hits"], of["n_targets"]))
    measures += cost_measures(arm, of, targets)
    if of["free"].sum():
        rate = float(of["dropped"].sum() / of["free"].sum())
        measures.append(Measure(arm, "forget_rate", rate, n=len(of["n_bytes"])))
    if of["told_bits"].any():
        plain = ratio_of_sums(arm, "unpaid_bits_per_byte", of["nats"] / LN2, of["n_bytes"])
        measures.append(_flagged(plain, "not comparable: it has seen the targets"))
    return measures + (_known_answers(arm, of) if "missed" in of else [])


def _over_identity(sums: DocumentSums) -> list[Measure]:
    """Return how far each arm is above the whole context in bits per byte, paired by document."""
    identity = sums["identity"]
    return [
        ratio_of_sums(
            arm, "over_identity_bits_per_byte",
            (sums[arm]["nats"] - identity["nats"]) / LN2 + sums[arm]["told_bits"],
            identity["n_bytes"],
        )
        for arm in sums.arms
        if arm != "identity"
    ]  # fmt: skip


def _gains(sums: DocumentSums, rate: float) -> list[Measure]:
    """Return how far the own mask is below others in bits per byte, paired by document."""
    own = name_of(MAIN, rate)
    if own not in sums.arms:
        return []
    others = {f"gain_over_{arm}": name_of(arm, rate) for arm in COMPARED}
    return [
        ratio_of_sums(
            own, f"{measure}_bits_per_byte",
            (sums[arm]["nats"] - sums[own]["nats"]) / LN2, sums[own]["n_bytes"],
        )
        for measure, arm in others.items()
    ]  # fmt: skip


def _known_answers(arm: str, of: Columns) -> list[Measure]:
    """Return precision and recall of the dropped tokens, where the answer is known."""
    wrong, right, missed = (of[name].sum() for name in ("false_drops", "true_drops", "missed"))
    found = []
    if right + wrong:
        found.append(Measure(arm, "filler_precision", float(right / (right + wrong))))
    if right + missed:
        found.append(Measure(arm, "filler_recall", float(right / (right + missed))))
    return found


def _flagged(measure: Measure, flag: str) -> Measure:
    return replace(measure, flag=flag)
