"""What comes out: likelihoods, reconstruction, round trip, use of the codes, cost."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import default_collate

from terse.corpora.token_store import TokenStore
from terse.evaluation.bits_per_byte import ratio_of_sums
from terse.evaluation.measures import Measure
from terse.evaluation.overlap import bleu
from terse.methods.hierarchical.compressor import Segments
from terse.methods.hierarchical.cost import hierarchical_flops
from terse.methods.hierarchical.generation import compress, decompress, text_of
from terse.methods.hierarchical.likelihoods import causal_nats, two_part, undefined
from terse.methods.hierarchical.model import HierarchicalAutoencoder
from terse.methods.hierarchical.quantizers import perplexity
from terse.methods.hierarchical.rows import ScoringRows
from terse.methods.hierarchical.settings import BOS, PAD

Floats = NDArray[np.float64]
N_ROUND_TRIPS = 16  # rows
LN2 = math.log(2)


def evaluate_model(model: HierarchicalAutoencoder, store: TokenStore) -> list[Measure]:
    """Return all measures on the validation split.

    Bits per byte: `two_part` (an upper bound), `causal`, `entropy_lm` (the lowest level's own LM).
    """
    s = model.settings
    rows = ScoringRows(store, s.sequence_length, limit=s.eval_bytes)
    overlap = (s.sequence_length - 1) // 2
    overlapping = ScoringRows(store, s.sequence_length, context=overlap, limit=s.eval_bytes)
    scores = RowScores(model, rows)
    return [
        *scores.measures(),
        *causal_measures(model, overlapping),
        *round_trip(model, rows),
        *scores.code_measures(),
        Measure("model", "flops_per_byte", hierarchical_flops(s, scores.segments_per_byte)),
    ]


def batches(model: HierarchicalAutoencoder, rows: ScoringRows) -> Iterator[dict[str, Any]]:
    """Yield rows in batches, the ids on the model's device."""
    size = model.settings.val_batch_size or model.settings.batch_size
    for start in range(0, len(rows), size):
        batch = default_collate([rows[i] for i in range(start, min(start + size, len(rows)))])
        yield {**batch, "ids": batch["ids"].to(model.device)}


class RowScores:
    """Sums over rows that are encoded once: per document the costs, per level the codes."""

    def __init__(self, model: HierarchicalAutoencoder, rows: ScoringRows) -> None:
        self.model, self.reason = model, undefined(model)
        n_documents = 1 + max(document for document, _ in rows.places)
        n_parts = 1 + len(model.levels)
        self.n_bytes = np.zeros(n_documents)
        self.parts = np.zeros((n_parts, n_documents))  # codes, then the highest expander first
        self.reconstruction, self.entropy_lm = np.zeros(n_documents), np.zeros(n_documents)
        self.n_segments = np.zeros(len(model.levels))
        self.counts = [
            [torch.zeros(c.quantizer.size) for _ in range(c.level.n_digits)]
            for c, _ in model.levels
        ]
        with torch.inference_mode():
            for batch in batches(model, rows):
                self._add(batch)

    @property
    def segments_per_byte(self) -> list[float]:
        """Segments of each level, per byte."""
        return (self.n_segments / self.n_bytes.sum()).tolist()

    def _add(self, batch: dict[str, Any]) -> None:
        document = batch["document"].numpy()
        levels = self.model.encode(batch["ids"])
        np.add.at(self.n_bytes, document, batch["n_bytes"].numpy())
        for i, level in enumerate(levels):
            self.n_segments[i] += int(level.n.sum())
            used = level.codes[level.real].cpu()  # (segments, G)
            for g, counts in enumerate(self.counts[i]):
                counts.index_add_(0, used[:, g], torch.ones(len(used)))
        if self.reason is None:
            scored = two_part(self.model, levels)
            for sums, nats in zip(self.parts, [scored.codes, *scored.expanders], strict=True):
                np.add.at(sums, document, _numbers(nats))
            np.add.at(self.reconstruction, document, _numbers(scored.expanders[-1]))
        else:
            np.add.at(self.reconstruction, document, _numbers(self._reconstruction(levels)))
        entropy_lm = self.model.levels[0][0].next_symbol_nats(levels[0])
        entropy_lm = entropy_lm.masked_fill(batch["ids"][:, 1:] >= BOS, 0.0)
        np.add.at(self.entropy_lm, document, _numbers(entropy_lm.sum(1)))

    def _reconstruction(self, levels: list[Segments]) -> Tensor:
        states = None if self.model.context is None else self.model.code_lm(levels[-1].rows)
        rows = levels[0].rows if len(levels) > 1 else self.model.memory(levels[0], states)
        return self.model.reconstruction_nats(0, levels[0], rows).sum(1)

    def measures(self) -> list[Measure]:
        """Return the bound with its parts, reconstruction, and the lowest level's own LM."""
        n = self._documents
        found = [
            ratio_of_sums("model", "reconstruction_nats", self.reconstruction[n], self.n_bytes[n]),
            ratio_of_sums("entropy_lm", "bits_per_byte", self.entropy_lm[n] / LN2, self.n_bytes[n]),
        ]
        if self.reason is not None:
            return [*found, Measure("two_part", "bits_per_byte", math.nan, flag=self.reason)]
        names = ["codes", *(f"expander{i}" for i in reversed(range(len(self.model.levels))))]
        found.append(
            ratio_of_sums("two_part", "bits_per_byte", self.parts.sum(0)[n] / LN2, self.n_bytes[n])
        )
        return found + [
            ratio_of_sums("two_part", f"{name}_bits_per_byte", part[n] / LN2, self.n_bytes[n])
            for name, part in zip(names, self.parts, strict=True)
        ]

    @property
    def _documents(self) -> NDArray[np.bool_]:
        return self.n_bytes > 0

    def code_measures(self) -> list[Measure]:
        """Return how many codes there are, what each costs, and how many are in use."""
        total = self.n_bytes.sum()
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
            bits = self.parts[0].sum() / LN2 / n_codes
            found.append(Measure(f"level{len(self.n_segments) - 1}", "bits_per_code", bits))
        return found


def causal_measures(model: HierarchicalAutoencoder, rows: ScoringRows) -> list[Measure]:
    """Return bits per byte of causal decoding, half a row of context before all but the first."""
    if model.top is None:
        reason = "a first stage has no top LM"
        return [Measure("causal", "bits_per_byte", math.nan, flag=reason)]
    n_documents = 1 + max(document for document, _ in rows.places)
    nats, n_bytes = np.zeros(n_documents), np.zeros(n_documents)
    with torch.inference_mode():
        for batch in batches(model, rows):
            ids, document = batch["ids"], batch["document"].numpy()
            costs = causal_nats(model, ids)  # (B, S - 1)
            places = torch.arange(1, ids.shape[1], device=ids.device)
            scored = (places >= batch["first"].to(ids.device)[:, None]) & (ids[:, 1:] < BOS)
            np.add.at(nats, document, _numbers((costs * scored).sum(1)))
            np.add.at(n_bytes, document, batch["n_bytes"].numpy())
    found = n_bytes > 0
    return [ratio_of_sums("causal", "bits_per_byte", nats[found] / LN2, n_bytes[found])]


def round_trip(model: HierarchicalAutoencoder, rows: ScoringRows) -> list[Measure]:
    """Return how much of some texts comes back from their codes alone.

    As bytes in their places, as whole texts, and as runs of bytes wherever they are: one byte too
    many moves all behind it.
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
    """Return the texts of some rows, evenly spread; none is empty."""
    n = min(N_ROUND_TRIPS, len(rows))
    texts = [text_of(rows[i * len(rows) // n]["ids"][1:].tolist()) for i in range(n)]
    return [text for text in texts if text]


def _numbers(values: Tensor) -> Floats:
    return values.double().cpu().numpy()


def segments_of_middle_row(model: HierarchicalAutoencoder, rows: ScoringRows) -> list[Segments]:
    """Return the segments of the middle row, level by level."""
    ids = rows[len(rows) // 2]["ids"][None].to(model.device)
    return model.encode(ids[:, : int((ids != PAD).sum())])
