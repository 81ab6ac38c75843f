"""Windows of text: a context that may be forgotten, then a block of targets that is kept."""

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

Item = dict[str, Any]
COUNTED = 5_000_000  # most tokens used for the unigram counts


@dataclass(frozen=True)
class Lengths:
    """Tokens of a window: `context` C including the start token, `block` S."""

    context: int
    block: int

    @property
    def total(self) -> int:
        return self.context + self.block


def item_of(
    tokens: NDArray[np.int64], n_context: int, lengths: Lengths, pad_id: int
) -> dict[str, torch.Tensor]:
    """Return a window of tokens (n,), the first n_context its context, as the fields of `Rows`.

    Each (C + S,), padded on the right.
    """
    n, T = len(tokens), lengths.total
    place = torch.arange(T)
    input_ids = torch.full((T,), pad_id)
    input_ids[:n] = torch.from_numpy(tokens)
    return {
        "input_ids": input_ids,
        "attention_mask": place < n,
        "is_target": (place >= n_context) & (place < n),
    }


class BlockWindows(Dataset[Item]):
    """Blocks of documents, each after the start token and up to C - 1 preceding tokens.

    An item has the fields of `Rows`, (C + S,) each, "document": its index in the split, and
    "target_bytes": UTF-8 bytes of the block.
    """

    def __init__(self, store: TokenStore, lengths: Lengths, start_id: int, pad_id: int) -> None:
        self.store, self.lengths = store, lengths
        self.start_id, self.pad_id = start_id, pad_id
        self.sizes = np.diff(store.offsets)  # (D,)
        if not self.sizes.any():
            raise TerseError(f"the {store.split} split has no tokens; change validation_fraction")

    def window(self, document: int, first: int) -> Item:
        """Return the window whose block begins at token `first` of a document."""
        offset, size = int(self.store.offsets[document]), int(self.sizes[document])
        begin = max(0, first - (self.lengths.context - 1))
        stop = min(first + self.lengths.block, size)
        read = self.store.windows[offset + begin : offset + stop].astype(np.int64)
        tokens = np.concatenate([[self.start_id], read])
        ends = self.store.window_ends[offset + max(0, first - 1) : offset + stop]
        before = int(ends[0]) if first else 0
        last = stop == size
        until = self.store.dataset("n_bytes")[document] if last else ends[-1]
        fields = item_of(tokens, 1 + first - begin, self.lengths, self.pad_id)
        return {**fields, "document": document, "target_bytes": int(until) - before}


class RandomBlocks(BlockWindows):
    """`n_rows` blocks at `RandomPlaces`."""

    def __init__(self, *args: Any, seed: int, n_rows: int) -> None:
        super().__init__(*args)
        counts = np.maximum(1, self.sizes - self.lengths.block + 1)
        self.places = RandomPlaces(np.where(self.sizes > 0, counts, 0), seed=seed, n=n_rows)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Item:
        return self.window(*self.places[index])


class AllBlocks(BlockWindows):
    """All blocks of all documents, in order: each token is a target exactly once.

    limit: at most this many, evenly spread.
    """

    def __init__(self, *args: Any, limit: int | None = None) -> None:
        super().__init__(*args)
        step = self.lengths.block
        places = [(d, a) for d, size in enumerate(self.sizes) for a in range(0, int(size), step)]
        self.n_all = len(places)
        self.places = [places[i] for i in evenly(self.n_all, limit or self.n_all)]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Item:
        return self.window(*self.places[index])


def token_counts(path: Path, size: int) -> torch.Tensor:
    """Return the occurrences (size,) of each token in (the start of) the training split."""
    tokens = TokenStore(path, "train").tokens[:COUNTED]
    return torch.from_numpy(np.bincount(tokens, minlength=size))
