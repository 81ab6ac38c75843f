"""Documents in local files: parquet, jsonl and text, compressed or not."""

import io
import json
import logging
import lzma
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from terse.corpora.document import Document
from terse.corpora.encodings import encoding_of, foreign, unpacked
from terse.corpora.html_text import html_to_text
from terse.corpora.local import chosen_files
from terse.corpora.records import record_document, row_filter
from terse.errors import TerseError
from terse.settings.corpora import Corpus

logger = logging.getLogger(__name__)

BATCH_ROWS = 256


def read_parquet(settings: Corpus) -> Iterator[Document]:
    """Yield a document per row of the parquet files, in order of path."""
    for path, name in chosen_files(settings):
        with readable(path), pq.ParquetFile(path, pre_buffer=False) as file:
            batches = file.iter_batches(batch_size=BATCH_ROWS)
            records = (record for batch in batches for record in batch.to_pylist())
            yield from documents_of(records, settings, name, "row")


def read_jsonl(settings: Corpus) -> Iterator[Document]:
    """Yield a document per line of the jsonl files (plain, .gz, .zst), in order of path."""
    for path, name in chosen_files(settings):
        with readable(path), opened(path) as stream:
            lines = io.TextIOWrapper(stream, encoding=encoding_of(stream.peek()))
            yield from documents_of(parsed(lines, path), settings, name, "line")


def read_text(settings: Corpus) -> Iterator[Document]:
    """Yield a document per text file, in order of path; HTML gives its text without the tags."""
    for path, name in chosen_files(settings):
        with readable(path), opened(path) as stream:
            content = stream.read()
        encoding = encoding_of(content)
        text = content.decode(encoding, errors="replace")
        if "\ufffd" in text and "\ufffd".encode(encoding) not in content:
            logger.warning("%s is not all UTF-8; other bytes were replaced by U+FFFD", path)
        if ".html" in name or ".htm" in name:
            text = html_to_text(text)
        yield Document(name, text, {"file": name})


def documents_of(
    records: Iterator[dict[str, Any] | None], settings: Corpus, name: str, unit: str
) -> Iterator[Document]:
    """Yield the documents of a file's records; None is an empty line: counted, not yielded."""
    keeps = row_filter(settings.dataset_subset)
    for number, record in enumerate(records, start=1):
        if record is not None and keeps(record):
            place = f"{name}:{number}"
            yield record_document(
                record, settings.text_column, place, f"{unit} {number} of {name}",
                settings.second_column,
            )  # fmt: skip


def parsed(lines: Iterator[str], path: Path) -> Iterator[dict[str, Any] | None]:
    """Yield the object on each line, None for an empty line."""
    for number, marked in enumerate(lines, start=1):
        line = marked.removeprefix("\ufeff")  # of a file that was appended to another
        if not line.strip():
            yield None
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise TerseError(f"{path}: line {number} is not JSON ({error})") from error
        if not isinstance(record, dict):
            raise TerseError(
                f"{path}: line {number} is not a JSON object but {type(record).__name__}"
            )
        yield record


@contextmanager
def opened(path: Path) -> Iterator[io.BufferedReader]:
    """Open a file for reading bytes, decompressed by its extension, else by its first bytes.

    A truncated archive raises OSError. Raises TerseError for a file without text, such as an
    archive of several files.
    """
    with path.open("rb") as raw, unpacked(raw, path) as stream:
        reader = io.BufferedReader(stream, buffer_size=1 << 20)
        if (kind := foreign(reader.peek(512))) is not None:
            raise TerseError(f"{path} holds {kind}, not text: unpack or convert it")
        yield reader


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn the errors of a broken file into one message that names it."""
    try:
        yield
    except (OSError, EOFError, UnicodeError, lzma.LZMAError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise TerseError(
            f"cannot read {path}, which is broken or not such a file: {reason}"
        ) from error
    except zstandard.ZstdError as error:
        raise TerseError(f"cannot read {path}, which is broken: {error}") from error
