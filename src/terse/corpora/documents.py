"""Documents on disk: one parquet file per corpus, split into train and validation."""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from terse.artifacts import atomic_file
from terse.corpora.document import SPLITS, Document
from terse.corpora.progress import DocumentProgress
from terse.corpora.sources import iterate_documents
from terse.errors import TerseError
from terse.settings.corpora import Corpus

logger = logging.getLogger(__name__)

SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "text": pa.large_string(),
        "n_bytes": pa.int64(),
        "split": pa.string(),
        "metadata": pa.string(),
    }
)
ROW_GROUP_BYTES = 4 << 20  # of text in memory at a time
ROW_GROUP_ROWS = 10_000


def write_documents(settings: Corpus, path: Path, n_procs: int = 1) -> dict[str, Any]:
    """Write a corpus' documents to a parquet file, holding a few MB in memory at a time.

    n_procs: processes that prepare a dataset downloaded from the hub.
    Returns {"n_documents": {split: count}, "n_bytes": {split: UTF-8 bytes}, "n_empty": documents
    without any text, which are left out, "fingerprint": SHA-256 over ids and texts in order}.
    Raises TerseError for a corpus without text.
    """
    n_documents, n_bytes, n_empty = Counter[str](), Counter[str](), 0
    digest = hashlib.sha256()
    with (
        atomic_file(path) as temporary,
        pq.ParquetWriter(temporary, SCHEMA) as writer,
        DocumentProgress(f"reading {describe(settings)}") as progress,
    ):
        for rows in grouped(iterate_documents(settings, n_procs), settings):
            kept = [row for row in rows if row["n_bytes"]]
            n_empty += len(rows) - len(kept)
            for row in kept:
                update_fingerprint(digest, row["id"], row["text"])
                n_documents[row["split"]] += 1
                n_bytes[row["split"]] += row["n_bytes"]
            writer.write_table(pa.Table.from_pylist(kept, schema=SCHEMA))
            progress.add(len(rows), sum(row["n_bytes"] for row in kept))
        if not n_documents:
            subset = settings.dataset_subset
            raise TerseError(
                f"corpus {describe(settings)} has no document that contains text"
                + (f" within the subset {subset!r}" if subset else "")
            )
        writer.add_key_value_metadata({"fingerprint": digest.hexdigest()})
    if n_empty:
        logger.warning("left out %d documents without text", n_empty)
    return {
        "n_documents": {split: n_documents[split] for split in SPLITS},
        "n_bytes": {split: n_bytes[split] for split in SPLITS},
        "n_empty": n_empty,
        "fingerprint": digest.hexdigest(),
    }


def grouped(documents: Iterable[Document], settings: Corpus) -> Iterator[list[dict[str, Any]]]:
    """Yield the documents' rows in groups of bounded size."""
    rows: list[dict[str, Any]] = []
    size = 0
    for document in documents:
        row = document_row(document, settings.seed, settings.validation_fraction)
        rows.append(row)
        size += row["n_bytes"]
        if size >= ROW_GROUP_BYTES or len(rows) >= ROW_GROUP_ROWS:
            yield rows
            rows, size = [], 0
    if rows:
        yield rows


def document_row(document: Document, seed: int, validation_fraction: float) -> dict[str, Any]:
    """Return a document as a row of the table. Lone surrogates, which UTF-8 lacks, become "?"."""
    encoded = document.text.encode("utf-8", errors="replace")
    return {
        "id": document.id,
        "text": encoded.decode(),
        "n_bytes": len(encoded) if document.text.strip() else 0,
        "split": split_of(encoded, seed, validation_fraction),
        "metadata": json.dumps(document.metadata, sort_keys=True, default=str),
    }


def split_of(text: bytes, seed: int, validation_fraction: float) -> str:
    """Return the split of a text: a function of (seed, text), so equal texts share a split."""
    digest = hashlib.sha256(f"{seed}\n".encode() + text).digest()
    share = int.from_bytes(digest[:8], "big") / 2**64
    return "validation" if share < validation_fraction else "train"


def update_fingerprint(digest: Any, id: str, text: str) -> None:
    """Add a document to a running SHA-256; the lengths keep adjacent parts distinct."""
    for part in (id.encode("utf-8", errors="replace"), text.encode()):
        digest.update(len(part).to_bytes(8, "big") + part)


def read_documents(
    path: Path, split: str | None = None, columns: list[str] | None = None
) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of a documents file in batches of bounded size, from one split or both."""
    with pq.ParquetFile(path) as file:
        wanted = [*columns, "split"] if columns is not None else None
        for group in range(file.num_row_groups):
            rows = file.read_row_group(group, columns=wanted).to_pylist()
            yield [row for row in rows if split is None or row["split"] == split]


def split_texts(path: Path, split: str) -> list[str]:
    """Return the texts of a split, all in memory."""
    return [row["text"] for rows in read_documents(path, split, ["text"]) for row in rows]


def fingerprint(path: Path) -> str:
    """Return the fingerprint that `write_documents` recorded in a file."""
    metadata = pq.read_metadata(path).metadata or {}
    if b"fingerprint" not in metadata:
        raise TerseError(f"{path} is not a documents file of this workflow: it has no fingerprint")
    return metadata[b"fingerprint"].decode()


def describe(settings: Corpus) -> str:
    """Return the corpus as a user names it: its source and path."""
    names = [settings.source, settings.path, settings.name]
    return " ".join(filter(None, names))
