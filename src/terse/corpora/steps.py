"""Texts whose steps end with a separator, such as the lines of a worked solution."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace

from terse.corpora.document import Document

STEP_ENDS = "step_ends"  # in a document's metadata: offsets in UTF-8 bytes where its pieces end


def with_steps(documents: Iterable[Document], pattern: str) -> Iterator[Document]:
    """Yield documents with the ends of their pieces in the metadata.

    A piece ends with a match of the regular expression `pattern`; the last ends with the text.
    """
    compiled = re.compile(pattern)
    for document in documents:
        ends = piece_ends(document.text, compiled)
        yield replace(document, metadata={**document.metadata, STEP_ENDS: ends})


def piece_ends(text: str, separator: re.Pattern[str]) -> list[int]:
    """Return the offset in UTF-8 bytes at which each piece of a text ends, separator included."""
    stops = [match.end() for match in separator.finditer(text) if match.end() < len(text)]
    ends, start, size = [], 0, 0
    for stop in [*(stop for stop in stops if stop > 0), len(text)]:
        size += len(text[start:stop].encode(errors="replace"))
        start = stop
        ends.append(size)
    return ends
