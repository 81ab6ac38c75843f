"""What a flat file of semantic blotching sets although its run would not read it."""

from collections.abc import Sequence
from typing import Any

from terse.corpora.named import NAMED
from terse.importer.overlay import Overlay
from terse.methods.blotching.settings import ARCHITECTURE, ENVIRONMENT, OF_INTENSITY, OF_TABLES

Block = dict[str, Any]


def leave_out_unread(overlay: Overlay, run: Block, sweep: Block, zipped: Block) -> None:
    """Take keys away that the run's arm, data or positions have no use for, with a note for each.

    A dataset that is neither on the hub nor a named corpus stands for the arithmetic problems.
    """
    blocks = (run, sweep, zipped)
    corpus = run.get("corpus")
    if isinstance(corpus, str) and corpus not in NAMED and _is_no_hub_path(overlay, corpus):
        del run["corpus"]
        overlay.config.pop("corpora", None)
        overlay.notes["dataset"] = "left out: the arithmetic problems are the run's own"
    if not _values("corpus", blocks):
        _drop(overlay, blocks, {"base", "tokenizer"}, "arithmetic has characters of its own")
        overlay.config.pop("models", None)
    else:
        _drop(overlay, blocks, ENVIRONMENT, "it is of the arithmetic problems")
        if _values("base", blocks):
            _drop(overlay, blocks, ARCHITECTURE, "it is the base's")
    shares, encodings = _values("blotch_p", blocks), _values("posenc_type", blocks)
    if shares and None not in shares:
        _drop(overlay, blocks, OF_INTENSITY, "a constant blotch_p has no intensities")
    if all(str(encoding).startswith("Rotary") for encoding in encodings):
        _drop(overlay, blocks, OF_TABLES, "rotary positions have no table")


def _values(key: str, blocks: Sequence[Block]) -> list[Any]:
    """Return the values that a key takes, alone or in a sweep; none where it is not given."""
    found = [block[key] for block in blocks if block.get(key) is not None]
    return [item for value in found for item in (value if isinstance(value, list) else [value])]


def _is_no_hub_path(overlay: Overlay, corpus: str) -> bool:
    entry = overlay.config.get("corpora", {}).get(corpus, {})
    return "/" not in str(entry.get("path", ""))


def _drop(overlay: Overlay, blocks: Sequence[Block], keys: set[str], why: str) -> None:
    for key in sorted(keys & {key for block in blocks for key in block}):
        for block in blocks:
            block.pop(key, None)
        overlay.notes[key] = f"left out: {why}"
