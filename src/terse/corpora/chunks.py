"""Chunks: the contexts of equal length whose hidden states are measured."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from terse.artifacts import atomic_file
from terse.corpora.document import SPLITS
from terse.corpora.h5 import FileReader
from terse.corpora.token_store import TokenStore
from terse.errors import TerseError, unknown_name

SHUFFLES = ("none", "tokens", "blocks")
SHUFFLED_BLOCKS = 16  # cut from the tokens after BOS, equal in size up to one token
BLOCK_ROWS = 1024  # chunks in memory at a time


@dataclass(frozen=True)
class ChunkRule:
    """How documents are cut: see `chunk_documents`, whose arguments these are."""

    ctx_len: int
    min_chunks_from_a_document: int
    max_chunks_from_a_document: int
    chunk_gap: int
    max_dataset_size: int | None
    split: str
    shuffle: str
    seed: int

    def __post_init__(self) -> None:
        least = {"ctx_len": 2, "max_chunks_from_a_document": 1, "max_dataset_size": 1}
        for name, value in asdict(self).items():
            if isinstance(value, int) and name != "seed" and value < least.get(name, 0):
                raise TerseError(f"{name} is {value}; allowed: {least.get(name, 0)} or more")
        if self.max_chunks_from_a_document < self.min_chunks_from_a_document:
            raise TerseError(
                f"max_chunks_from_a_document {self.max_chunks_from_a_document} is below "
                f"min_chunks_from_a_document {self.min_chunks_from_a_document}"
            )
        if self.shuffle not in SHUFFLES:
            raise unknown_name("shuffle", self.shuffle, SHUFFLES)
        if self.split not in (*SPLITS, "all"):
            raise unknown_name("split", self.split, (*SPLITS, "all"))

    @property
    def threshold(self) -> int:
        """The fewest tokens of a document that gives chunks."""
        return self.ctx_len * (self.min_chunks_from_a_document + 1)


@dataclass(frozen=True)
class Plan:
    """The chunks of one split: arrays (n,) of document, number in the document, first token."""

    store: TokenStore
    documents: NDArray[np.int64]
    chunks: NDArray[np.int64]
    starts: NDArray[np.int64]


def chunk_documents(
    tokens_path: Path,
    out_path: Path,
    *,
    ctx_len: int,
    min_chunks_from_a_document: int,
    max_chunks_from_a_document: int,
    chunk_gap: int = 50,
    max_dataset_size: int | None = None,
    split: str = "all",
    shuffle: str = "none",
    seed: int = 0,
) -> int:
    """Cut a tokens file into chunks of ctx_len tokens and return how many there are.

    A document gives chunks if it has ctx_len * (min_chunks_from_a_document + 1) tokens or more and
    room for that minimum, at most max_chunks_from_a_document, with chunk_gap tokens skipped between
    two. With a BOS
    token a chunk is BOS and ctx_len - 1 tokens, else ctx_len tokens. max_dataset_size: maximum
    number of documents considered. split: "train", "validation" or "all" (train first). shuffle:
    "tokens" permutes the tokens of a chunk, "blocks" its 16 blocks; the BOS stays first.

    Raises TerseError if no document is long enough, and for values out of range.
    """
    rule = ChunkRule(
        ctx_len=ctx_len,
        min_chunks_from_a_document=min_chunks_from_a_document,
        max_chunks_from_a_document=max_chunks_from_a_document,
        chunk_gap=chunk_gap,
        max_dataset_size=max_dataset_size,
        split=split,
        shuffle=shuffle,
        seed=seed,
    )
    stores = [TokenStore(tokens_path, name) for name in (SPLITS if split == "all" else [split])]
    lengths = limited([np.diff(store.offsets) for store in stores], max_dataset_size)
    plans = [plan(store, some, rule) for store, some in zip(stores, lengths, strict=True)]
    n_chunks = sum(len(plan.starts) for plan in plans)
    if not n_chunks:
        raise no_chunks(np.concatenate(lengths), rule)
    with atomic_file(out_path) as temporary, h5py.File(temporary, "w") as file:
        write_chunks(file, plans, rule, n_chunks)
        file.attrs["complete"] = True
    return n_chunks


def limited(lengths: list[NDArray[np.int64]], limit: int | None) -> list[NDArray[np.int64]]:
    """Return the first `limit` documents' lengths over all splits."""
    before = np.cumsum([0, *map(len, lengths)])
    return [
        some if limit is None else some[: max(0, limit - start)]
        for some, start in zip(lengths, before[:-1].tolist(), strict=True)
    ]


def plan(store: TokenStore, lengths: NDArray[np.int64], rule: ChunkRule) -> Plan:
    """Return the plan of a split's chunks; lengths (D,): its documents' lengths in tokens."""
    body = rule.ctx_len - (store.bos_id >= 0)
    stride = body + rule.chunk_gap
    counts = (lengths + rule.chunk_gap) // stride  # (D,) chunks that fit
    counts = np.minimum(counts, rule.max_chunks_from_a_document)
    # Between short chunks the gaps take more than the threshold leaves for them.
    enough = (lengths >= rule.threshold) & (counts >= rule.min_chunks_from_a_document)
    counts = np.where(enough, counts, 0)
    documents = np.repeat(np.arange(len(lengths)), counts)  # (n,)
    firsts = np.cumsum(counts) - counts  # (D,) chunks in the documents before
    chunks = np.arange(len(documents)) - firsts[documents]
    return Plan(store, documents, chunks, store.offsets[documents] + chunks * stride)


def no_chunks(lengths: NDArray[np.int64], rule: ChunkRule) -> TerseError:
    """Return the error for a corpus without a long enough document; lengths (D,)."""
    longest = lengths.max() if len(lengths) else 0
    if longest >= rule.threshold:
        return TerseError(
            f"no chunks: no document has room for min_chunks_from_a_document "
            f"{rule.min_chunks_from_a_document} chunks of {rule.ctx_len} tokens with chunk_gap "
            f"{rule.chunk_gap} between them, the longest has {longest}; lower one of them"
        )
    return TerseError(
        f"no chunks: all {len(lengths)} documents are shorter than the {rule.threshold} tokens "
        f"that ctx_len {rule.ctx_len} and min_chunks_from_a_document "
        f"{rule.min_chunks_from_a_document} require, the longest has {longest}; lower one of them"
    )


def write_chunks(file: h5py.File, plans: list[Plan], rule: ChunkRule, n_chunks: int) -> None:
    """Write the planned chunks and their metadata to an open file, a block of rows at a time."""
    store = plans[0].store
    file.attrs["ctx_len"] = rule.ctx_len
    file.attrs["bos"] = store.bos_id >= 0
    file.attrs["bos_id"] = store.bos_id
    file.attrs["fingerprint"] = store.fingerprint
    file.attrs["tokenizer_digest"] = store.tokenizer_digest
    file.attrs["settings"] = json.dumps(asdict(rule), sort_keys=True)
    tokens = file.create_dataset("tokens", (n_chunks, rule.ctx_len), np.int32)
    group = file.create_group("rows")
    rows = {name: group.create_dataset(name, (n_chunks,), kind) for name, kind in ROWS.items()}
    row = 0
    for one in plans:
        ids, metadata = one.store.ids, one.store.metadata
        for first in range(0, len(one.starts), BLOCK_ROWS):
            block = slice(first, first + BLOCK_ROWS)
            columns = describe_rows(one, block, ids, metadata, rule)
            stop = row + len(columns["id"])
            tokens[row:stop] = read_rows(one, block, columns["id"], rule)
            for name, values in columns.items():
                rows[name][row:stop] = values
            row = stop


ROWS = {
    "id": h5py.string_dtype(),
    "document": h5py.string_dtype(),
    "chunk": np.int32,
    "byte_start": np.int64,
    "byte_end": np.int64,
    "metadata": h5py.string_dtype(),
}


def describe_rows(
    plan: Plan, block: slice, ids: list[str], metadata: list[str], rule: ChunkRule
) -> dict[str, Any]:
    """Return the columns of `rows` for a block of chunks; byte offsets are within the document."""
    documents, chunks, starts = plan.documents[block], plan.chunks[block], plan.starts[block]
    body = rule.ctx_len - (plan.store.bos_id >= 0)
    ends = plan.store.window_ends
    names = [ids[document] for document in documents]
    inner = starts > plan.store.offsets[documents]  # the others start at their document's byte 0
    return {
        "id": [f"{name}-{chunk}" for name, chunk in zip(names, chunks, strict=True)],
        "document": names,
        "chunk": chunks,
        "byte_start": [
            ends[start - 1 : start][0] if later else 0
            for start, later in zip(starts, inner, strict=True)
        ],
        "byte_end": [ends[stop - 1 : stop][0] for stop in starts + body],
        "metadata": [metadata[document] for document in documents],
    }


def read_rows(plan: Plan, block: slice, ids: list[str], rule: ChunkRule) -> NDArray[np.int32]:
    """Return a block of chunks (rows, ctx_len), BOS included, shuffled if the rule says so."""
    starts = plan.starts[block]
    bos_id = plan.store.bos_id
    body = rule.ctx_len - (bos_id >= 0)
    out = np.full((len(starts), rule.ctx_len), bos_id, dtype=np.int32)
    for row, start in enumerate(starts):
        tokens = plan.store.windows[start : start + body]
        out[row, rule.ctx_len - body :] = shuffled(tokens, rule.shuffle, rule.seed, ids[row])
    return out


def shuffled(tokens: NDArray[np.int32], how: str, seed: int, id: str) -> NDArray[np.int32]:
    """Return the tokens (n,) permuted by "tokens" or "blocks"; a function of (seed, id).

    Shuffled prompts show how much of a dimension is due to the order of tokens (Viswanathan et
    al. 2025, https://arxiv.org/abs/2501.10573).
    """
    if how == "none":
        return tokens
    digest = hashlib.sha256(f"{seed}\n{id}".encode()).digest()
    generator = np.random.default_rng(int.from_bytes(digest[:16], "big"))
    if how == "tokens":
        return generator.permutation(tokens)
    blocks = np.array_split(tokens, SHUFFLED_BLOCKS)
    return np.concatenate([blocks[block] for block in generator.permutation(len(blocks))])


class Chunks:
    """A chunks file, read lazily; may be passed to other processes.

    `chunks[a:b]` gives tokens (b - a, ctx_len) int32. Raises TerseError for an incomplete file.
    """

    def __init__(self, path: Path) -> None:
        self.reader = FileReader(path)
        attrs = self.reader.attrs
        self.ctx_len = int(attrs["ctx_len"])
        self.bos = bool(attrs["bos"])
        self.bos_id = int(attrs["bos_id"])
        self.fingerprint: str = attrs["fingerprint"]
        self.tokenizer_digest: str = attrs["tokenizer_digest"]
        self.settings: dict[str, Any] = json.loads(attrs["settings"])

    @property
    def tokens(self) -> h5py.Dataset:
        """All chunks (n, ctx_len) int32."""
        return self.reader.dataset("tokens")

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int | slice) -> NDArray[np.int32]:
        return self.tokens[index]

    def rows(self, start: int = 0, stop: int | None = None) -> dict[str, NDArray[Any]]:
        """Return the columns of chunks [start, stop): id, document, chunk, ..., each (rows,)."""
        return {name: self.reader.read(f"rows/{name}", start, stop) for name in ROWS}

    def shard(self, index: int, n_shards: int) -> tuple[int, int]:
        """Return the rows [start, stop) that shard `index` of n_shards owns."""
        if not 0 <= index < n_shards:
            raise TerseError(f"there is no shard {index} of {n_shards}")
        return index * len(self) // n_shards, (index + 1) * len(self) // n_shards
