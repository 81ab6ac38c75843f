"""Windows of k context tokens and the n tokens that follow, each within one document."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from terse.corpora.places import RandomPlaces, evenly
from terse.corpora.token_store import TokenStore
from terse.errors import TerseError

logger = logging.getLogger(__name__)

Item = dict[str, Any]


@dataclass(frozen=True)
class Lengths:
    """Tokens of a window: `context` k, `new` n after it, `overlap` o repeated between them.

    Without new tokens the context itself is the target.
    """

    context: int
    new: int
    overlap: int = 0

    @property
    def shortest(self) -> int:
        return self.context + min(self.new, 1)


class Windows(Dataset[Item]):
    """Windows cut from documents.

    An item is {"context", "context_mask": (k,), "target", "target_mask", "is_new": (o + n,), all
    int64, "document": index in its split, "target_bytes": UTF-8 bytes of the new tokens}. The
    context is padded in front, the target at the end, with token 0 and mask 0.
    """

    def __init__(self, store: TokenStore, lengths: Lengths) -> None:
        self.store = store
        self.lengths = lengths

    def item(self, document: int, start: int, split_at: int, stop: int) -> Item:
        """Return the window [start, stop) of a document; the context ends at `split_at`."""
        offset = int(self.store.offsets[document])
        tokens = self.store.windows[offset + start : offset + stop].astype(np.int64)
        context, new = np.split(tokens, [split_at - start])
        first, o = split_at, self.lengths.overlap
        if not self.lengths.new:
            first, new = start, context
        target = np.concatenate([context[len(context) - o :], new])
        width = o + (self.lengths.new or self.lengths.context)
        place = torch.arange(width)
        ends = self.store.window_ends[offset + max(0, first - 1) : offset + stop]
        begins = int(ends[0]) if first else 0
        return {
            "context": _padded(context, self.lengths.context, front=True),
            "context_mask": _padded(np.ones_like(context), self.lengths.context, front=True),
            "target": _padded(target, width, front=False),
            "target_mask": (place < len(target)).long(),
            "is_new": ((place >= o) & (place < len(target))).long(),
            "document": document,
            "target_bytes": int(ends[-1]) - begins,
        }


class ListedWindows(Windows):
    """Windows from a known list; each place begins with the document's index."""

    places: list[tuple[int, ...]]

    def __len__(self) -> int:
        return len(self.places)


class RandomWindows(Windows):
    """`n_rows` windows at `RandomPlaces`."""

    def __init__(self, store: TokenStore, lengths: Lengths, *, seed: int, n_rows: int) -> None:
        super().__init__(store, lengths)
        sizes = np.diff(store.offsets)  # (D,)
        _report_short(sizes, lengths, store.split)
        counts = np.maximum(1, sizes - (lengths.context + lengths.new) + 1)
        counts = np.where(sizes >= lengths.shortest, counts, 0)
        self.places = RandomPlaces(counts, seed=seed, n=n_rows)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Item:
        document, start = self.places[index]
        size = int(np.diff(self.store.offsets[document : document + 2])[0])
        k = self.lengths.context
        return self.item(document, start, start + k, min(start + k + self.lengths.new, size))


class AllWindows(ListedWindows):
    """All windows of all documents, in order and without overlap; the last ones may be short.

    limit: at most this many, evenly spread.
    """

    def __init__(self, store: TokenStore, lengths: Lengths, limit: int | None = None) -> None:
        super().__init__(store, lengths)
        sizes = np.diff(store.offsets)  # (D,)
        _report_short(sizes, lengths, store.split)
        stride = lengths.context + lengths.new
        places = [
            (document, start)
            for document, size in enumerate(sizes)
            for start in range(0, int(size) - lengths.shortest + 1, stride)
        ]
        self.places = _spread(places, limit)

    def __getitem__(self, index: int) -> Item:
        document, start = self.places[index]
        size = int(np.diff(self.store.offsets[document : document + 2])[0])
        k = self.lengths.context
        return self.item(document, start, start + k, min(start + k + self.lengths.new, size))


class PairWindows(ListedWindows):
    """Documents that are pairs of texts: the first is the context, the second the target.

    Pairs longer than k and n are left out and counted in the log.
    """

    def __init__(self, store: TokenStore, lengths: Lengths, limit: int | None = None) -> None:
        super().__init__(store, lengths)
        found = [place for d in range(len(store)) if (place := self._place(d)) is not None]
        if not found:
            raise TerseError(
                f"no pair of the {store.split} split fits {lengths.context} + {lengths.new} "
                "tokens; raise cmp_len and seq_len"
            )
        if left_out := len(store) - len(found):
            logger.warning(
                "left out %d of %d pairs of the %s split: over %d + %d tokens, or half empty",
                left_out, len(store), store.split, lengths.context, lengths.new,
            )  # fmt: skip
        self.places = _spread(found, limit)

    def _place(self, document: int) -> tuple[int, int, int] | None:
        """Return (document, tokens of the first text, all tokens); None if they do not fit."""
        start, stop = map(int, self.store.offsets[document : document + 2])
        ends = self.store.window_ends[start:stop]
        boundary = first_bytes(self.store.metadata_of(document))
        split_at = int(np.searchsorted(ends, boundary, side="right"))
        size = stop - start
        fits = self.lengths.overlap <= split_at <= self.lengths.context
        fits = fits and 0 < size - split_at <= self.lengths.new and split_at > 0
        return (document, split_at, size) if fits else None

    def __getitem__(self, index: int) -> Item:
        document, split_at, size = self.places[index]
        return self.item(document, 0, split_at, size)


def training_windows(path: Path, lengths: Lengths, *, seed: int, n_rows: int) -> Windows:
    """Return the windows that a run trains on: pairs if the corpus consists of pairs."""
    store = _store(path, "train", lengths)
    if is_paired(store):
        return PairWindows(store, lengths)
    return RandomWindows(store, lengths, seed=seed, n_rows=n_rows)


def listed_windows(
    path: Path, split: str, lengths: Lengths, limit: int | None = None
) -> ListedWindows:
    """Return all windows of the validation split, or `limit` of them, evenly spread."""
    store = _store(path, split, lengths)
    return (PairWindows if is_paired(store) else AllWindows)(store, lengths, limit)


def is_paired(store: TokenStore) -> bool:
    """Return whether the documents of a store are pairs of texts."""
    return len(store) > 0 and "first_bytes" in json.loads(store.metadata_of(0))


def first_bytes(metadata: str) -> int:
    """Return the UTF-8 bytes of a pair's first text."""
    return int(json.loads(metadata)["first_bytes"])


def _store(path: Path, split: str, lengths: Lengths) -> TokenStore:
    store = TokenStore(path, split)
    if not is_paired(store) and not (np.diff(store.offsets) >= lengths.shortest).any():
        raise TerseError(
            f"the {split} split of {path} has no document of {lengths.shortest} tokens; lower "
            "cmp_len and seq_len, or use longer documents"
        )
    return store


def _report_short(sizes: NDArray[np.int64], lengths: Lengths, split: str) -> None:
    if short := int((sizes < lengths.shortest).sum()):
        logger.info(
            "%d of %d documents of the %s split have fewer than %d tokens and give no window",
            short, len(sizes), split, lengths.shortest,
        )  # fmt: skip


def _spread(places: list[Any], limit: int | None) -> list[Any]:
    return places if limit is None else [places[i] for i in evenly(len(places), limit)]


def _padded(values: NDArray[np.int64], width: int, *, front: bool) -> torch.Tensor:
    padding = width - len(values)
    return torch.from_numpy(np.pad(values, (padding, 0) if front else (0, padding)))
