"""Scores of a run: likelihoods, reconstruction, round trip, use of the codes, cost."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import default_collate

from terse.corpora.token_store import TokenStore
from terse.evaluation.measures import Measure
from terse.evaluation.overlap import bleu
from terse.evaluation.scores import LN2, Columns, DocumentSums, Floats, all_text, ratio_of_sums
from terse.machine.progress import shown
from terse.methods.hierarchical.compressor import Segments
from terse.methods.hierarchical.cost import reconstruction, row_costs
from terse.methods.hierarchical.generation import compress, decompress, text_of
from terse.methods.hierarchical.likelihoods import causal_nats, two_part, undefined
from terse.methods.hierarchical.model import HierarchicalAutoencoder
from terse.methods.hierarchical.quantizers import perplexity
from terse.methods.hierarchical.rows import ScoringRows
from terse.methods.hierarchical.settings import BOS, PAD

N_ROUND_TRIPS = 16  # rows


def evaluate_model(model: HierarchicalAutoencoder, store: TokenStore) -> list[Measure]:
    """Return all measures on the validation split.

    Bits per byte: `two_part` (an upper bound), `causal`, `entropy_lm` (the lowest level's own LM).
    Positions and FLOPs per byte of the likelihoods; for a first stage, of encoding and decoding.
    """
    s = model.settings
    rows = ScoringRows(store, s.sequence_length, limit=s.eval_bytes)
    overlap = (s.sequence_length - 1) // 2
    overlapping = ScoringRows(store, s.sequence_length, context=overlap, limit=s.eval_bytes)
    scores = RowScores(model, rows)
    arm = "model" if scores.reason is not None else "two_part"
    return [
        *scores.measures(),
        *row_costs(model, rows, arm, targets_of(model, rows)),
        *causal_measures(model, overlapping),
        *round_trip(model, rows),
        *scores.code_measures(),
    ]


def targets_of(model: HierarchicalAutoencoder, rows: ScoringRows) -> str:
    """Return the value of `targets` for the bytes that rows score."""
    corpus = model.settings.corpus
    if len(rows) == rows.n_all:
        return all_text(corpus)
    size = rows.sequence_length - 1 - rows.context
    return (
        f"{len(rows)} of {rows.n_all} rows of up to {size} bytes of the validation documents of "
        f"{corpus}"
    )


def batches(model: HierarchicalAutoencoder, rows: ScoringRows) -> Iterator[dict[str, Any]]:
    """Yield rows in batches, the ids on the model's device."""
    size = model.settings.val_batch_size or model.settings.batch_size
    for start in shown(range(0, len(rows), size), "scoring rows"):
        batch = default_collate([rows[i] for i in range(start, min(start + size, len(rows)))])
        yield {**batch, "ids": batch["ids"].to(model.device)}


class RowScores:
    """Sums over rows that are encoded once: costs per document, codes per level.

    The nats of a row include those of its EOS if the document ends in it.
    """

    def __init__(self, model: HierarchicalAutoencoder, rows: ScoringRows) -> None:
        self.model, self.reason = model, undefined(model)
        self.targets = targets_of(model, rows)
        self.sums = DocumentSums(1 + max(document for document, _ in rows.places))
        self.n_segments = [0.0 for _ in model.levels]
        self.counts = [
            [torch.zeros(c.quantizer.size) for _ in range(c.level.n_digits)]
            for c, _ in model.levels
        ]
        with torch.inference_mode():
            for batch in batches(model, rows):
                self._add(batch)

    @property
    def parts(self) -> list[str]:
        """The parts of the two-part bound: codes, then the highest expander first."""
        return ["codes", *(f"expander{i}" for i in reversed(range(len(self.model.levels))))]

    def _add(self, batch: dict[str, Any]) -> None:
        levels, document, n_bytes = (
            self.model.encode(batch["ids"]),
            batch["document"],
            batch["n_bytes"],
        )
        for i, level in enumerate(levels):
            self.n_segments[i] += int(level.n.sum())
            used = level.codes[level.real].cpu()  # (segments, G)
            for g, counts in enumerate(self.counts[i]):
                counts.index_add_(0, used[:, g], torch.ones(len(used)))
        about = {"n_targets": n_bytes, "n_bytes": n_bytes}
        if self.reason is None:
            scored = two_part(self.model, levels)
            parts = dict(zip(self.parts, [scored.codes, *scored.expanders], strict=True))
            self.sums.add("two_part", document, **about, **parts)
            nats = scored.expanders[-1]
        else:
            nats = reconstruction(self.model, levels)
        self.sums.add("model", document, **about, nats=nats)
        entropy_lm = self.model.levels[0][0].next_symbol_nats(levels[0])
        entropy_lm = entropy_lm.masked_fill(batch["ids"][:, 1:] >= BOS, 0.0)
        self.sums.add("entropy_lm", document, **about, nats=entropy_lm.sum(1))

    def measures(self) -> list[Measure]:
        """Return the bound with its parts, reconstruction, and the lowest level's own LM."""
        found = [
            self._per_byte("model", "reconstruction_nats", self.sums["model"]["nats"]),
            self._per_byte("entropy_lm", "bits_per_byte", self.sums["entropy_lm"]["nats"] / LN2),
        ]
        if self.reason is not None:
            return [*found, _missing("two_part", self.targets, self.reason)]
        of: Columns = self.sums["two_part"]
        total: Any = sum(of[name] for name in self.parts)
        found.append(self._per_byte("two_part", "bits_per_byte", total / LN2))
        return found + [
            self._per_byte("two_part", f"{name}_bits_per_byte", of[name] / LN2)
            for name in self.parts
        ]

    def _per_byte(self, arm: str, measure: str, top: Floats) -> Measure:
        return ratio_of_sums(arm, measure, top, self.sums[arm]["n_bytes"], targets=self.targets)

    def code_measures(self) -> list[Measure]:
        """Return the number of codes, the cost of each, and how many are in use."""
        total = self.sums["model"]["n_bytes"].sum()
        found = []
        for i, (compressor, _) in enumerate(self.model.levels):
            per_byte, arm = self.n_segments[i] / total, f"level{i}"
            n_codes = per_byte * compressor.level.n_digits
            found.append(Measure(arm, "segments_per_byte", per_byte))
            found.append(Measure(arm, "codes_per_byte", n_codes))
            for g, counts in enumerate(self.counts[i]):
                digit = f"_{g}" if len(self.counts[i]) > 1 else ""
                found.append(Measure(arm, f"perplexity{digit}", float(perplexity(counts))))
                dead = float((counts == 0).float().mean())
                found.append(Measure(arm, f"dead_share{digit}", dead))
        if self.reason is None:
            n_codes = self.n_segments[-1] * max(1, self.model.levels[-1][0].level.n_digits)
            bits = self.sums["two_part"]["codes"].sum() / LN2 / n_codes
            found.append(Measure(f"level{len(self.n_segments) - 1}", "bits_per_code", bits))
        return found


def causal_measures(model: HierarchicalAutoencoder, rows: ScoringRows) -> list[Measure]:
    """Return score and cost of causal decoding, with half a row of context before later rows."""
    targets = targets_of(model, rows)
    if model.top is None:
        return [_missing("causal", targets, "a first stage has no top LM")]
    sums = DocumentSums(1 + max(document for document, _ in rows.places))
    with torch.inference_mode():
        for batch in batches(model, rows):
            ids, n_bytes = batch["ids"], batch["n_bytes"]
            costs = causal_nats(model, ids)  # (B, S - 1)
            places = torch.arange(1, ids.shape[1], device=ids.device)
            scored = (places >= batch["first"].to(ids.device)[:, None]) & (ids[:, 1:] < BOS)
            nats = (costs * scored).sum(1)
            sums.add("causal", batch["document"], nats=nats, n_targets=n_bytes, n_bytes=n_bytes)
    of = sums["causal"]
    bits = ratio_of_sums(
        "causal", "bits_per_byte", of["nats"] / LN2, of["n_bytes"], targets=targets
    )
    return [bits, *row_costs(model, rows, "causal", targets)]


def _missing(arm: str, targets: str, reason: str) -> Measure:
    return Measure(arm, "bits_per_byte", math.nan, targets=targets, flag=reason)


def round_trip(model: HierarchicalAutoencoder, rows: ScoringRows) -> list[Measure]:
    """Return how much of some texts is recovered from their codes alone.

    Measured as bytes at their positions, as entire texts, and as common subsequences of bytes: one
    extra byte shifts all bytes after it.
    """
    texts = some_texts(rows)
    found = decompress(model, compress(model, texts))
    right = sum(
        a == b
        for text, copy in zip(texts, found, strict=True)
        for a, b in zip(text, copy, strict=False)
    )  # a copy may be shorter or longer
    total = sum(map(len, texts))
    same = sum(text == copy for text, copy in zip(texts, found, strict=True))
    alike = sum(bleu(copy, text) for text, copy in zip(texts, found, strict=True))
    return [
        Measure("model", "round_trip_accuracy", right / total, n=len(texts)),
        Measure("model", "round_trip_exact", same / len(texts), n=len(texts)),
        Measure("model", "round_trip_bleu4", alike / len(texts), n=len(texts)),
    ]


def some_texts(rows: ScoringRows) -> list[bytes]:
    """Return the non-empty texts of some rows, evenly spread."""
    n = min(N_ROUND_TRIPS, len(rows))
    texts = [text_of(rows[i * len(rows) // n]["ids"][1:].tolist()) for i in range(n)]
    return [text for text in texts if text]


def segments_of_middle_row(model: HierarchicalAutoencoder, rows: ScoringRows) -> list[Segments]:
    """Return the segments of the middle row, level by level."""
    ids = rows[len(rows) // 2]["ids"][None].to(model.device)
    return model.encode(ids[:, : int((ids != PAD).sum())])
