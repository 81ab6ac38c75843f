"""Tokenised corpora on disk: all tokens of a split in one array, and where each ends."""

import json
import logging
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer
from tokenizers.pre_tokenizers import ByteLevel

from terse.artifacts import atomic_file
from terse.corpora.document import SPLITS
from terse.corpora.documents import fingerprint, read_documents
from terse.corpora.h5 import Growing
from terse.corpora.progress import DocumentProgress
from terse.corpora.tokenizers import bytes_to_characters, plain_backend, tokenizer_digest

logger = logging.getLogger(__name__)

BATCH_BYTES = 1 << 20  # of text that one thread takes at a time
CALL_CHARACTERS = 1 << 16  # in one call: encodings, a hundred times their text, stay in the cache
PIECE = 1 << 18  # characters of a longer document that are encoded at a time
_BETWEEN_WORDS = re.compile("[A-Za-z] (?=[A-Za-z])")


def tokenize_documents(
    documents_path: Path, tokenizer: Any, out_path: Path, *, n_procs: int = 1
) -> None:
    """Tokenise a documents file into HDF5, n_procs batches at a time, without special tokens.

    tokenizer: a Hugging Face fast tokenizer. The file holds per split: tokens (N,) int32,
    byte_ends (N,) int32, offsets (D + 1,) int64, id, n_bytes and metadata (D,). The same input
    gives the same bytes, whatever n_procs. Warns if there are bytes without a token.
    """
    backend = plain_backend(tokenizer)
    with atomic_file(out_path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["fingerprint"] = fingerprint(documents_path)
        file.attrs["tokenizer_digest"] = tokenizer_digest(tokenizer)
        file.attrs["vocab_size"] = len(tokenizer)
        file.attrs["bos_id"] = id_or_none(tokenizer.bos_token_id)
        file.attrs["eos_id"] = id_or_none(tokenizer.eos_token_id)
        n_left_out = 0
        writers = {split: SplitWriter(file.create_group(split)) for split in SPLITS}
        batches = batched(read_documents(documents_path))
        cut = pieces_of if can_be_cut(backend) else whole
        encode = partial(encode_batch, encoder(backend), cut)
        with single_threaded_tokenizers(), DocumentProgress("tokenising") as progress:
            for encoded in in_order(encode, batches, n_procs):
                for split, writer in writers.items():
                    writer.write([document for document in encoded if document.split == split])
                progress.add(len(encoded), sum(document.n_bytes for document in encoded))
                n_left_out += sum(document.n_left_out for document in encoded)
        file.attrs["complete"] = True
    if n_left_out:
        logger.warning("the tokenizer has no token for %d bytes of the text: left out", n_left_out)


@dataclass(frozen=True)
class EncodedDocument:
    """A document's row with its tokens (n,) and their ends in UTF-8 bytes (n,).

    n_left_out: bytes for which the tokenizer is known to have no token.
    """

    id: str
    split: str
    n_bytes: int
    metadata: str
    tokens: NDArray[np.int32]
    byte_ends: NDArray[np.int32]
    n_left_out: int


class SplitWriter:
    """Appends documents to one split's group."""

    def __init__(self, group: h5py.Group) -> None:
        self.tokens = Growing(group, "tokens", np.int32)
        self.byte_ends = Growing(group, "byte_ends", np.int32)
        self.offsets = Growing(group, "offsets", np.int64)
        self.id = Growing(group, "id", h5py.string_dtype())
        self.n_bytes = Growing(group, "n_bytes", np.int64)
        self.metadata = Growing(group, "metadata", h5py.string_dtype())
        self.offsets.append(np.zeros(1, dtype=np.int64))

    def write(self, documents: list[EncodedDocument]) -> None:
        """Append documents, in order."""
        if not documents:
            return
        lengths = np.array([len(document.tokens) for document in documents], dtype=np.int64)
        self.offsets.append(len(self.tokens) + np.cumsum(lengths))
        self.tokens.append(np.concatenate([document.tokens for document in documents]))
        self.byte_ends.append(np.concatenate([document.byte_ends for document in documents]))
        self.id.append([document.id for document in documents])
        self.n_bytes.append(np.array([document.n_bytes for document in documents]))
        self.metadata.append([document.metadata for document in documents])


class Encoded(NamedTuple):
    """A text's tokens (n,), their ends in bytes (n,), its bytes, and those without a token."""

    tokens: NDArray[np.int32]
    byte_ends: NDArray[np.int32]
    n_bytes: int
    n_left_out: int = 0


Encode = Callable[[list[str]], list[Encoded]]


def encode_batch(
    encode: Encode, cut: Callable[[str], list[str]], rows: list[dict[str, Any]]
) -> list[EncodedDocument]:
    """Return the rows of a documents file with their tokens; `cut` makes pieces of long texts."""
    pieces = [cut(row["text"]) for row in rows]
    found = _few_at_a_time(encode, [text for parts in pieces for text in parts])
    return [
        _document(row, [next(found) for _ in parts])
        for row, parts in zip(rows, pieces, strict=True)
    ]


def _few_at_a_time(encode: Encode, texts: list[str]) -> Iterator[Encoded]:
    """Yield what `encode` makes of each text, of about CALL_CHARACTERS at a time."""
    few: list[str] = []
    size = 0
    for text in texts:
        few.append(text)
        size += len(text)
        if size >= CALL_CHARACTERS:
            yield from encode(few)
            few, size = [], 0
    if few:
        yield from encode(few)


def _document(row: dict[str, Any], parts: list[Encoded]) -> EncodedDocument:
    one = parts[0] if len(parts) == 1 else _joined(parts)
    return EncodedDocument(
        row["id"], row["split"], row["n_bytes"], row["metadata"],
        one.tokens, one.byte_ends, one.n_left_out,
    )  # fmt: skip


def _joined(parts: list[Encoded]) -> Encoded:
    starts = np.cumsum([0, *(part.n_bytes for part in parts[:-1])], dtype=np.int32)
    return Encoded(
        np.concatenate([part.tokens for part in parts]),
        np.concatenate([part.byte_ends + start for part, start in zip(parts, starts, strict=True)]),
        sum(part.n_bytes for part in parts),
        sum(part.n_left_out for part in parts),
    )


def can_be_cut(backend: Tokenizer) -> bool:
    """Return whether the tokens of a text are those of its `pieces_of`, one after the other.

    So it is where the text is first cut into words as GPT-2 does, each with the space before it.
    """
    parts = json.loads(backend.to_str())
    words = parts["pre_tokenizer"] or {}
    as_gpt2 = words.get("type") == "ByteLevel" and words.get("use_regex", True)
    return bool(as_gpt2 and not words.get("add_prefix_space") and parts["normalizer"] is None)


def whole(text: str) -> list[str]:
    """Return a text as its only piece."""
    return [text]


def pieces_of(text: str) -> list[str]:
    """Return a text cut before spaces between two letters, every PIECE characters or later."""
    pieces, start = [], 0
    while (found := _BETWEEN_WORDS.search(text, start + PIECE)) is not None:
        pieces.append(text[start : found.start() + 1])
        start = found.start() + 1
    return [*pieces, text[start:]]


def encoder(backend: Tokenizer) -> Encode:
    """Return the function that encodes texts.

    A byte-level token states its own number of bytes, which is exact even where tokens split a
    character. A byte that has no token (SmolLM2 has none for six control characters) is left out,
    and belongs to the token after it. Otherwise, and if the tokens don't add up to the text, the
    ends come from the character offsets, and all parts of a split character end where it ends.
    """
    parts = json.loads(backend.to_str())
    byte_level = parts["normalizer"] is None and '"ByteLevel"' in json.dumps(parts["decoder"])
    if not byte_level:
        return partial(_encoded_by_offsets, backend)
    lengths, known = token_byte_lengths(backend), bytes_with_token(backend)
    adds_up = lengths[backend.encode("a b", add_special_tokens=False).ids].sum() == 3
    call = backend.encode_batch_fast if adds_up else backend.encode_batch  # fast: without offsets

    def encode(texts: list[str]) -> list[Encoded]:
        found = []
        for text, encoding in zip(texts, call(texts, add_special_tokens=False), strict=True):
            one = _by_lengths(text, _ids(encoding), lengths, known)
            if one is None and adds_up:
                encoding = backend.encode(text, add_special_tokens=False)
            found.append(one or _by_offsets(text, encoding))
        return found

    return encode


def _encoded_by_offsets(backend: Tokenizer, texts: list[str]) -> list[Encoded]:
    encodings = backend.encode_batch(texts, add_special_tokens=False)
    return [_by_offsets(*pair) for pair in zip(texts, encodings, strict=True)]


def _by_offsets(text: str, encoding: Encoding) -> Encoded:
    return Encoded(_ids(encoding), ends_from_characters(text, encoding), len(text.encode()))


def _by_lengths(
    text: str, tokens: NDArray[np.int32], lengths: NDArray[np.int64], known: NDArray[np.bool_]
) -> Encoded | None:
    """Return a text's tokens with their ends by the bytes (vocabulary,) that each stands for.

    known: bytes (256,) that have a token. None if the tokens don't add up to these bytes.
    """
    content = text.encode()
    ends = np.cumsum(lengths[tokens], dtype=np.int32)
    total = int(ends[-1]) if len(ends) else 0
    if total == len(content):
        return Encoded(tokens, ends, total)
    places = np.flatnonzero(known[np.frombuffer(content, dtype=np.uint8)])
    if total != len(places):
        return None
    ends = (places[ends - 1] + 1).astype(np.int32)
    return Encoded(tokens, ends, len(content), len(content) - total)


def _ids(encoding: Encoding) -> NDArray[np.int32]:
    return np.array(encoding.ids, dtype=np.int32)


def token_byte_lengths(backend: Tokenizer) -> NDArray[np.int64]:
    """Return the number of UTF-8 bytes (vocabulary,) of each token of a byte-level tokenizer."""
    alphabet = set(ByteLevel.alphabet())
    added = backend.get_added_tokens_decoder()
    lengths = np.zeros(max(backend.get_vocab().values()) + 1, dtype=np.int64)
    for token, index in backend.get_vocab().items():
        one_byte_each = index not in added and alphabet.issuperset(token)
        lengths[index] = len(token) if one_byte_each else len(token.encode())
    return lengths


def bytes_with_token(backend: Tokenizer) -> NDArray[np.bool_]:
    """Return which bytes (256,) a byte-level tokenizer has a token for."""
    names = bytes_to_characters()
    return np.array([backend.token_to_id(names[byte]) is not None for byte in range(256)])


def ends_from_characters(text: str, encoding: Encoding) -> NDArray[np.int32]:
    """Return each token's end (n,) in UTF-8 bytes from its end in characters; never decreasing."""
    ends = np.array([end for _, end in encoding.offsets], dtype=np.int64)
    if text.isascii():
        return np.maximum.accumulate(ends).astype(np.int32)
    codes = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)  # (characters,)
    sizes = 1 + (codes >= 0x80) + (codes >= 0x800) + (codes >= 0x10000)
    byte_at = np.concatenate([[0], np.cumsum(sizes)])  # (characters + 1,)
    return np.maximum.accumulate(byte_at[ends]).astype(np.int32)


def batched(groups: Iterable[list[dict[str, Any]]]) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows in batches of about BATCH_BYTES of text."""
    rows: list[dict[str, Any]] = []
    size = 0
    for group in groups:
        for row in group:
            rows.append(row)
            size += row["n_bytes"]
            if size >= BATCH_BYTES:
                yield rows
                rows, size = [], 0
    if rows:
        yield rows


def in_order(function: Callable[[Any], Any], items: Iterable[Any], n_threads: int) -> Iterator[Any]:
    """Yield function(item) in the items' order, n_threads at a time, buffering few results.

    Threads suffice, since the tokenizers release Python's lock.
    """
    with ThreadPoolExecutor(max(1, n_threads)) as pool:
        waiting: deque[Any] = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > n_threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


@contextmanager
def single_threaded_tokenizers() -> Iterator[None]:
    """Keep the tokenizers library from using every core on its own."""
    key = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(key)
    os.environ[key] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[key]
        else:
            os.environ[key] = before


def id_or_none(token_id: int | None) -> int:
    """Return a token id, -1 for none."""
    return -1 if token_id is None else token_id
