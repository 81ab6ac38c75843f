"""Rows to train on and windows to score, read lazily from a tokens file."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from terse.corpora.token_store import TokenStore
from terse.errors import TerseError

IGNORED = -100  # the label that Hugging Face models exclude from the loss


class PackedRows(Dataset):
    """Rows of T tokens cut from the stream [BOS, document, BOS, document, ...].

    An item is {"input_ids": (T,), "labels": (T,)}, int64, labels at the inputs' positions (the
    model shifts them). The rows joined are the stream; the last is padded, with labels -100.
    """

    def __init__(self, store: TokenStore, ctx_len: int, bos_id: int, pad_id: int) -> None:
        self.store = store
        self.ctx_len = ctx_len
        self.bos_id = bos_id
        self.pad_id = pad_id
        with_bos = np.arange(len(store.offsets)) if bos_id >= 0 else 0
        self.starts = store.offsets + with_bos  # (D + 1,) of the documents in the stream

    def __len__(self) -> int:
        return -(-int(self.starts[-1]) // self.ctx_len)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        start = index % len(self) * self.ctx_len
        stream = self.read(start, min(start + self.ctx_len, int(self.starts[-1])))  # (T or less,)
        input_ids = torch.full((self.ctx_len,), self.pad_id)
        labels = torch.full((self.ctx_len,), IGNORED)
        input_ids[: len(stream)] = labels[: len(stream)] = torch.from_numpy(stream)
        return {"input_ids": input_ids, "labels": labels}

    def read(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return positions [start, stop) of the stream."""
        if self.bos_id < 0:
            return self.store.windows[start:stop].astype(np.int64)
        first, last = np.searchsorted(self.starts[:-1], [start, stop])  # BOS before start, stop
        out = np.full(stop - start, self.bos_id, dtype=np.int64)
        is_token = np.ones(stop - start, dtype=bool)
        is_token[self.starts[first:last] - start] = False
        out[is_token] = self.store.windows[start - first : stop - last]
        return out


def packed_rows(
    tokens_path: Path, split: str, ctx_len: int, bos_id: int, pad_id: int | None = None
) -> PackedRows:
    """Return a split as rows of ctx_len tokens for training: documents packed, no token dropped.

    bos_id: prepended to each document; negative: none. pad_id: fills the last row, bos_id (or 0)
    if None. Raises TerseError for an empty split.
    """
    store = TokenStore(tokens_path, split)
    check(store, split, ctx_len, tokens_path)
    return PackedRows(store, ctx_len, bos_id, max(0, bos_id) if pad_id is None else pad_id)


class ScoringWindows(Dataset):
    """Windows inside documents, in which every token is a target exactly once.

    An item is {"input_ids", "labels", "attention_mask": (T,) int64, "document": index of the
    document in its split, "target_bytes": UTF-8 bytes of the targets}. labels are at the inputs'
    positions (the model shifts them) and -100 where nothing is scored. A window is BOS, earlier
    tokens as context, targets, and padding on the right. The target_bytes of a document's windows
    add up to the bytes of the document.
    """

    def __init__(
        self, store: TokenStore, ctx_len: int, bos_id: int, stride: int, pad_id: int
    ) -> None:
        self.store = store
        self.ctx_len = ctx_len
        self.bos_id = bos_id
        self.stride = stride
        self.pad_id = pad_id
        lengths = np.diff(store.offsets)  # (D,)
        later = np.maximum(0, lengths - (ctx_len - 1))  # tokens after the first window's targets
        counts = np.where(lengths > 0, 1 - (-later // stride), 0)
        self.firsts = np.concatenate([[0], np.cumsum(counts)])  # (D + 1,) windows before each
        self.n_bytes = store.n_bytes  # (D,)

    @property
    def n_documents(self) -> int:
        """The number of documents of the split, empty ones included."""
        return len(self.firsts) - 1

    def __len__(self) -> int:
        return int(self.firsts[-1])

    def __getitem__(self, index: int) -> dict[str, torch.Tensor | int]:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        document = int(np.searchsorted(self.firsts, index, side="right")) - 1
        offset, stop_at = map(int, self.store.offsets[document : document + 2])
        window = index - int(self.firsts[document])
        begin = window * self.stride  # the first token after BOS
        first = begin and begin + self.ctx_len - 1 - self.stride  # the first target
        stop = min(begin + self.ctx_len - 1, stop_at - offset)
        tokens = self.store.windows[offset + begin : offset + stop].astype(np.int64)
        return {
            **self.pad(torch.from_numpy(tokens), n_context=first - begin),
            "document": document,
            "target_bytes": self.bytes_between(document, offset, first, stop),
        }

    def pad(self, tokens: torch.Tensor, n_context: int) -> dict[str, torch.Tensor]:
        """Return a window's tensors (T,) from its tokens after BOS, n_context of them unscored."""
        n = 1 + len(tokens)
        input_ids = torch.full((self.ctx_len,), self.pad_id)
        input_ids[0] = self.bos_id
        input_ids[1:n] = tokens
        labels = torch.full((self.ctx_len,), IGNORED)
        labels[1 + n_context : n] = tokens[n_context:]
        attention_mask = (torch.arange(self.ctx_len) < n).long()
        return {"input_ids": input_ids, "labels": labels, "attention_mask": attention_mask}

    def bytes_between(self, document: int, offset: int, first: int, stop: int) -> int:
        """Return the bytes of tokens [first, stop) of a document; the last takes the remainder."""
        ends = self.store.byte_ends
        start = int(ends[offset + first - 1]) if first else 0
        is_last = offset + stop == self.store.offsets[document + 1]
        return int(self.n_bytes[document] if is_last else ends[offset + stop - 1]) - start


class SomeDocuments(Dataset):
    """The scoring windows of some documents of a split; "document" is a place among them."""

    def __init__(self, windows: ScoringWindows, documents: list[int]) -> None:
        self.windows = windows
        self.places = [
            (place, index)
            for place, document in enumerate(documents)
            for index in range(*map(int, windows.firsts[document : document + 2]))
        ]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor | int]:
        place, window = self.places[index]
        return {**self.windows[window], "document": place}


def scoring_windows(
    tokens_path: Path,
    split: str,
    ctx_len: int,
    bos_id: int,
    stride: int | None = None,
    pad_id: int | None = None,
) -> ScoringWindows:
    """Return a split as windows for exact bits per byte: every token is a target exactly once.

    ctx_len: positions of a window, BOS included, 2 or more. bos_id: prepended to each window; a
    tokenizer without BOS can use its EOS. stride: targets of each window after a document's first
    (which has ctx_len - 1), in [1, ctx_len - 1], half of ctx_len if None; the other
    ctx_len - 1 - stride tokens are context. pad_id: bos_id if None.
    Raises TerseError for an empty split and for values out of range.
    """
    store = TokenStore(tokens_path, split)
    check(store, split, ctx_len, tokens_path)
    stride = ctx_len // 2 if stride is None else stride
    if not 1 <= stride < ctx_len:
        raise TerseError(f"stride is {stride}; allowed: 1 to ctx_len - 1 = {ctx_len - 1}")
    if bos_id < 0:
        raise TerseError("a document's first token has no context without a BOS; give bos_id")
    return ScoringWindows(store, ctx_len, bos_id, stride, bos_id if pad_id is None else pad_id)


def check(store: TokenStore, split: str, ctx_len: int, path: Path) -> None:
    """Raise TerseError for an empty split or a context without room for a token."""
    if not len(store.tokens):
        raise TerseError(f"the {split} split of {path} has no tokens; change validation_fraction")
    if ctx_len < 2:
        raise TerseError(f"ctx_len is {ctx_len}; allowed: 2 or more")
