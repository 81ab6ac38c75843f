"""The unit that a corpus is made of."""

from dataclasses import dataclass, field
from typing import Any

SPLITS = ("train", "validation")


@dataclass(frozen=True)
class Document:
    """A text with a name that is unique in its corpus, and what else is known about it."""

    id: str
    text: str
    metadata: dict[str, Any] = field(default_factory=dict)
