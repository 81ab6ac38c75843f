"""Keys that an imported file of semantic blotching sets although its run would not read them."""

from collections.abc import Sequence
from typing import Any

from terse.corpora.named import NAMED
from terse.methods.blotching.settings import ARCHITECTURE, ENVIRONMENT, OF_INTENSITY, OF_TABLES

Block = dict[str, Any]


def drop_unread(config: Block, blocks: Sequence[Block]) -> dict[str, str]:
    """Drop keys that the run's arm, data or positions do not use; return a note on each.

    config: the overlay, which defines corpora and models. blocks: the run and its sweeps. A dataset
    that is neither on the hub nor a named corpus means the arithmetic problems.
    """
    notes: dict[str, str] = {}
    run = blocks[0]
    corpus = run.get("corpus")
    if isinstance(corpus, str) and corpus not in NAMED and _is_no_hub_path(config, corpus):
        del run["corpus"]
        config.pop("corpora", None)
        notes["dataset"] = "left out: the run makes its own arithmetic problems"
    if not _values("corpus", blocks):
        notes |= _dropped(blocks, {"base", "tokenizer"}, "arithmetic has its own characters")
        config.pop("models", None)
    else:
        notes |= _dropped(blocks, ENVIRONMENT, "only the arithmetic problems use it")
        if _values("base", blocks):
            notes |= _dropped(blocks, ARCHITECTURE, "it is the base's")
    shares, encodings = _values("blotch_p", blocks), _values("posenc_type", blocks)
    if shares and None not in shares:
        notes |= _dropped(blocks, OF_INTENSITY, "a constant blotch_p has no intensities")
    if all(str(encoding).startswith("Rotary") for encoding in encodings):
        notes |= _dropped(blocks, OF_TABLES, "rotary positions have no table")
    return notes


def _values(key: str, blocks: Sequence[Block]) -> list[Any]:
    """Return the values of a key, alone or in a sweep; none where it is not given."""
    found = [block[key] for block in blocks if block.get(key) is not None]
    return [item for value in found for item in (value if isinstance(value, list) else [value])]


def _is_no_hub_path(config: Block, corpus: str) -> bool:
    entry = config.get("corpora", {}).get(corpus, {})
    return "/" not in str(entry.get("path", ""))


def _dropped(blocks: Sequence[Block], keys: set[str], why: str) -> dict[str, str]:
    """Drop keys from all blocks; return a note on each dropped key."""
    there = sorted(keys & {key for block in blocks for key in block})
    for block in blocks:
        for key in there:
            block.pop(key, None)
    return dict.fromkeys(there, f"left out: {why}")
