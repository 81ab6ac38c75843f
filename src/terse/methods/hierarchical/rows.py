"""Rows of bytes to train on and to score, read lazily from a tokens file of bytes."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from terse.corpora.places import evenly
from terse.corpora.token_store import TokenStore
from terse.errors import TerseError
from terse.methods.hierarchical.settings import BOS, EOS, PAD


class ByteRows(Dataset[dict[str, Tensor]]):
    """Rows (S,) of BOS and S - 1 symbols of the stream [document, EOS, BOS, document, EOS, ...].

    They hold every byte, and the last row is padded; with a `limit`, there are that many rows,
    evenly spread.
    """

    def __init__(self, store: TokenStore, sequence_length: int, limit: int | None = None) -> None:
        self.store, self.sequence_length, self.limit = store, sequence_length, limit
        # Where each document's BOS would be; the first document has none in the stream.
        self.starts = store.offsets + 2 * np.arange(len(store.offsets)) - 1  # (D + 1,)

    @property
    def n_all(self) -> int:
        """The number of rows without a limit."""
        return -(-int(self.starts[-1]) // (self.sequence_length - 1))

    def __len__(self) -> int:
        return self.n_all if self.limit is None else min(self.n_all, self.limit)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        step = self.sequence_length - 1
        start = index % len(self) * self.n_all // len(self) * step
        stream = self.read(start, min(start + step, int(self.starts[-1])))
        return {"ids": padded(stream, self.sequence_length)}

    def read(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return the positions [start, stop) of the stream; only their bytes are read."""
        tokens, found = self.store.windows, np.full(stop - start, EOS, dtype=np.int64)
        document = max(0, int(np.searchsorted(self.starts, start, side="right")) - 1)
        while document < len(self.store) and self.starts[document] < stop:
            begin, end = self.starts[document] + 1, self.starts[document + 1] - 1  # of its bytes
            if begin > start:
                found[begin - 1 - start] = BOS
            first, last = max(begin, start), min(end, stop)
            if first < last:
                ahead = self.store.offsets[document] - begin
                found[first - start : last - start] = tokens[first + ahead : last + ahead]
            document += 1
        return found


class ScoringRows(Dataset[dict[str, Any]]):
    """Rows [BOS, context, targets] within documents, with EOS after the last byte.

    An item is {"ids": (S,), "first": position of the first target, "document": index in its split,
    "n_bytes": bytes among the targets}. Each byte is a target once; with a `limit` of bytes, there
    are about that many, in evenly spread rows. context: positions repeated from the row before.
    """

    def __init__(
        self, store: TokenStore, sequence_length: int, *, context: int = 0, limit: int | None = None
    ) -> None:
        self.store, self.sequence_length, self.context = store, sequence_length, context
        places = [
            (document, begin)
            for document in range(len(store))
            for begin in self._begins(int(np.diff(store.offsets[document : document + 2])[0]))
        ]
        n = self.n_all = len(places)
        if limit is not None:
            n = min(n, max(1, limit // (sequence_length - 1 - context)))
        self.places = [places[i] for i in evenly(len(places), n)]

    def _begins(self, n_bytes: int) -> list[int]:
        """Return where the rows of a document begin in it; EOS is one of its positions."""
        width = self.sequence_length - 1
        stride, n = width - self.context, n_bytes + 1
        later = max(0, n - width)
        return [i * stride for i in range(1 - (-later // stride))]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> dict[str, Any]:
        document, begin = self.places[index]
        tokens = self.store.document(document)
        width = self.sequence_length - 1
        piece = np.append(tokens[begin:], EOS)[:width].astype(np.int64)
        first = 1 + (self.context if begin else 0)
        n_bytes = int((piece[first - 1 :] < BOS).sum())
        return {
            "ids": padded(piece, self.sequence_length),
            "first": first,
            "document": document,
            "n_bytes": n_bytes,
        }


def padded(symbols: NDArray[np.int64], sequence_length: int) -> Tensor:
    """Return BOS, symbols and padding as a row (S,)."""
    row = torch.full((sequence_length,), PAD)
    row[0] = BOS
    row[1 : 1 + len(symbols)] = torch.from_numpy(symbols)
    return row


def byte_store(path: Path, split: str) -> TokenStore:
    """Return a split of a tokens file; TerseError if it is empty or its tokens are not bytes."""
    store = TokenStore(path, split)
    if store.vocab_size != PAD + 1 or store.bos_id != BOS:
        raise TerseError(f"the tokens in {path} are not bytes: use a tokenizer of kind bytes")
    if not len(store):
        raise TerseError(f"the {split} split of {path} is empty; change validation_fraction")
    return store
