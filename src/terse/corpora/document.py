"""The unit of a corpus."""

from dataclasses import dataclass, field
from typing import Any

SPLITS = ("train", "validation")


@dataclass(frozen=True)
class Document:
    """A text with a name that is unique in its corpus, and its metadata."""

    id: str
    text: str
    metadata: dict[str, Any] = field(default_factory=dict)
