"""Windows: pieces of original text, a context and a target, the same for every way of reading."""

import hashlib
import json
import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from terse.artifacts import atomic_file
from terse.corpora.documents import read_documents
from terse.corpora.places import evenly
from terse.corpora.steps import STEP_ENDS
from terse.errors import TerseError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Window:
    """A context and its target, both as text, cut at borders of characters.

    document: its name. digest: SHA-256 of the document's text. start: bytes of the document before
    the context. piece_ends: where the context's steps end, in bytes of it, the last at its end;
    None if the corpus has no steps.
    """

    number: int
    document: str
    digest: str
    start: int
    context: str
    target: str
    piece_ends: tuple[int, ...] | None = None

    @property
    def context_bytes(self) -> int:
        """UTF-8 bytes of the context."""
        return len(self.context.encode())

    @property
    def target_bytes(self) -> int:
        """UTF-8 bytes of the target."""
        return len(self.target.encode())


def cut_windows(
    documents: Iterable[dict[str, Any]], *, n_windows: int, context_bytes: int, target_bytes: int
) -> list[Window]:
    """Return about evenly spread windows of documents, at most `n_windows`, none overlapping.

    documents: {"id", "text", "metadata" as JSON}. As many documents as possible have a window:
    intervals come from resampled documents. Documents shorter than a window have none; TerseError
    if all are.
    """
    size = context_bytes + target_bytes
    found = [(row, row["text"].encode()) for row in documents]
    longest = max((len(text) for _, text in found), default=0)
    long = [(row, text) for row, text in found if len(text) >= size + 6]  # 6: for whole characters
    if not long:
        raise TerseError(
            f"no document is as long as a window of {context_bytes} + {target_bytes} bytes; the "
            f"longest has {longest}: lower context_bytes or target_bytes"
        )
    if len(long) < len(found):
        logger.info(
            "%d of %d documents are shorter than a window", len(found) - len(long), len(found)
        )
    places = _places([len(text) // (size + 6) for _, text in long], n_windows)
    if len(places) < n_windows:
        logger.warning("the documents have room for %d windows, not %d", len(places), n_windows)
    windows = []
    for document, part, n_parts in places:
        row, text = long[document]
        slot = len(text) // n_parts
        start = slot * part + (slot - size - 6) // 2
        windows.append(_window(len(windows), row, text, start, context_bytes, target_bytes))
    return windows


def _places(room: list[int], n: int) -> list[tuple[int, int, int]]:
    """Return (document, part, parts of the document) of n windows: first one per document.

    room: how many windows fit into each document.
    """
    if n < len(room):
        return [(document, 0, 1) for document in evenly(len(room), n)]
    counts = [0] * len(room)
    while sum(counts) < n and counts != room:
        open_ones = [i for i, count in enumerate(counts) if count < room[i]]
        missing = n - sum(counts)
        chosen = open_ones if len(open_ones) <= missing else [
            open_ones[i] for i in evenly(len(open_ones), missing)
        ]  # fmt: skip
        for i in chosen:
            counts[i] += 1
    return [(i, part, count) for i, count in enumerate(counts) for part in range(count)]


def _window(
    number: int, row: dict[str, Any], text: bytes, start: int, context_bytes: int, target_bytes: int
) -> Window:
    first = _border(text, start)
    middle = _border(text, first + context_bytes)
    last = _border(text, middle + target_bytes)
    ends = json.loads(row["metadata"]).get(STEP_ENDS)
    return Window(
        number, row["id"], digest_text(row["text"]), first, text[first:middle].decode(),
        text[middle:last].decode(), None if ends is None else _inside(ends, first, middle),
    )  # fmt: skip


def _border(text: bytes, place: int) -> int:
    """Return the first border of characters at or after a place."""
    while place < len(text) and text[place] & 0xC0 == 0x80:
        place += 1
    return place


def _inside(ends: list[int], first: int, last: int) -> tuple[int, ...]:
    return (*(end - first for end in ends if first < end < last), last - first)


def digest_text(text: str) -> str:
    """Return the SHA-256 of a document's text."""
    return hashlib.sha256(text.encode()).hexdigest()


def write_windows(windows: list[Window], path: Path) -> None:
    """Write windows as a table, one row each."""
    rows = [{**asdict(window), "piece_ends": window.piece_ends} for window in windows]
    with atomic_file(path) as partial:
        pd.DataFrame(rows).to_parquet(partial, index=False)


def read_windows(path: Path) -> list[Window]:
    """Return the windows that `write_windows` wrote."""
    rows = pd.read_parquet(path).to_dict("records")
    for row in rows:
        ends = row["piece_ends"]
        row["piece_ends"] = None if ends is None else tuple(map(int, ends))
    return [Window(**{str(key): value for key, value in row.items()}) for row in rows]


def dealt(windows: list[Window], part: int, n_parts: int) -> list[Window]:
    """Return a part of the windows: every n-th, so that all parts are alike.

    Raises TerseError for a part that is not among 0 to n_parts - 1.
    """
    if part not in range(n_parts):
        allowed = f"0 to {n_parts - 1}" if n_parts else "none, the study has no evictions"
        raise TerseError(f"part {part} of the windows: allowed: {allowed}")
    return windows[part::n_parts]


def flagged(table: pd.DataFrame, windows: list[Window], paths: Iterable[Path]) -> pd.DataFrame:
    """Return a table whose column `flag` also says what `seen_in_training` does, and warn."""
    seen = seen_in_training(windows, paths)
    if not seen:
        return table
    logger.warning("%s", seen)
    return table.assign(flag=[f"{flag}; {seen}" if flag else seen for flag in table["flag"]])


def seen_in_training(windows: list[Window], paths: Iterable[Path]) -> str:
    """Return which of the windows' documents are training text of a reader, "" if none is.

    paths: documents files that it was trained on. Texts are compared by their digests.
    """
    wanted = {window.digest: window.document for window in windows}
    found: set[str] = set()
    for path in paths:
        for rows in read_documents(path, "train", ["text"]):
            found |= wanted.keys() & {digest_text(row["text"]) for row in rows}
    if not found:
        return ""
    first = min(found, key=lambda digest: wanted[digest])
    return (
        f"its reader was trained on {len(found)} of the {len(wanted)} documents, such as "
        f"{wanted[first]} (SHA-256 {first[:12]})"
    )
