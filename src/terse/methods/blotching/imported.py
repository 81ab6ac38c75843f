"""Keys that an imported file of semantic blotching sets although its run would not read them."""

from collections.abc import Sequence
from typing import Any

from terse.corpora.named import NAMED, SENTENCE_END
from terse.methods.blotching.settings import (
    ARCHITECTURE,
    ENVIRONMENT,
    OF_INTENSITY,
    OF_TABLES,
    BlotchingSettings,
)

Block = dict[str, Any]


def drop_unread(config: Block, blocks: Sequence[Block]) -> dict[str, str]:
    """Drop keys that the run's arm, data or positions do not use; return a note on each.

    config: the overlay, which defines corpora and models. blocks: the run and its sweeps. A dataset
    that is neither on the hub nor a named corpus means the arithmetic problems. The steps of other
    texts are their sentences.
    """
    notes: dict[str, str] = {}
    run = blocks[0]
    if "warmup_steps" not in run and _steps(run) is not None:
        default = BlotchingSettings.model_fields["warmup_steps"].default
        run["warmup_steps"] = min(default, _steps(run))
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
        notes |= _sentences(config, blocks)
        if _values("base", blocks):
            notes |= _dropped(blocks, ARCHITECTURE, "it is the base's")
        else:
            notes |= _tokenizer(config, blocks)
    shares, encodings = _values("blotch_p", blocks), _values("posenc_type", blocks)
    if shares and None not in shares:
        notes |= _dropped(blocks, OF_INTENSITY, "a constant blotch_p has no intensities")
    if all(str(encoding).startswith("Rotary") for encoding in encodings):
        notes |= _dropped(blocks, OF_TABLES, "rotary positions have no table")
    return notes


def _steps(run: Block) -> int | None:
    """Return the steps of a run, None where they are not given or swept."""
    if isinstance(run.get("max_steps"), int):
        return run["max_steps"]
    counts = run.get("n_epochs"), run.get("n_train_loops")
    both = all(isinstance(count, int) for count in counts)
    return counts[0] * counts[1] if both else None  # type: ignore[operator]


def _sentences(config: Block, blocks: Sequence[Block]) -> dict[str, str]:
    """Let each corpus end its steps with its sentences; return a note."""

    def chained(corpus: str) -> str:
        if f"{corpus}-sentences" in NAMED:
            return f"{corpus}-sentences"
        if corpus in config.get("corpora", {}):
            config["corpora"][corpus].setdefault("separator_pattern", SENTENCE_END)
        return corpus

    for block in blocks:
        if isinstance(given := block.get("corpus"), list):
            block["corpus"] = [chained(corpus) for corpus in given]
        elif given is not None:
            block["corpus"] = chained(given)
    return {"dataset": "corpus; its steps are sentences: separator_pattern"}


def _tokenizer(config: Block, blocks: Sequence[Block]) -> dict[str, str]:
    """Train a tokenizer on the first corpus for a model from scratch; return a note."""
    corpus = _values("corpus", blocks)[0]
    name = f"bpe-{corpus}"[:40].rstrip("-.")
    config.setdefault("tokenizers", {})[name] = {"kind": "bpe", "corpus": corpus}
    blocks[0]["tokenizer"] = name
    return {"tokenizer": f"none there: {name}, trained on {corpus}"}


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
