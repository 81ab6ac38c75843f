"""Sources of text, and the tokenizers that are trained on it."""

import re
from typing import Any, Literal

from pydantic import Field, model_validator

from terse.settings.strict import Name, Strict

# Which keys each source reads; a key that a source would ignore is refused.
_COMMON = {
    "source", "max_dataset_size", "validation_fraction", "seed", "separator", "separator_pattern",
}  # fmt: skip
_FILES = _COMMON | {"path", "files", "dataset_subset"}
_KEYS = {
    "python-docs": _COMMON,
    "text": _FILES,
    "jsonl": _FILES | {"text_column", "second_column"},
    "parquet": _FILES | {"text_column", "second_column"},
    "hub": _FILES | {"text_column", "second_column", "name", "split", "revision"},
}


Subset = str | int | list[str | int] | None


class Corpus(Strict):
    """A collection of documents, split by document into training and validation."""

    source: Literal["python-docs", "hub", "parquet", "jsonl", "text"] = Field(
        description="`python-docs` ships with CPython, `hub` is downloaded, the rest are local"
    )
    path: str | None = Field(None, description="hub dataset id, or a local folder or file")
    name: str | None = Field(None, description="configuration of a hub dataset")
    split: str = Field("train", description="split of a hub dataset that is read")
    revision: str = Field("main", description="revision of a hub dataset")
    files: list[str] | None = Field(None, description="glob patterns below path")
    text_column: str = Field("text", description="column that holds the text")
    second_column: str | None = Field(
        None, description="rows are pairs of texts: column that holds the second one"
    )
    separator: str | None = Field(
        None, min_length=1, description="text that ends each step of a document: method blotching"
    )
    separator_pattern: str | None = Field(
        None, min_length=1, description="the same, as a regular expression such as `[.!?]\\s+`"
    )
    dataset_subset: Subset = Field(
        None,
        description="only this part of a sharded corpus: a file's place from 0, a pattern of "
        "names, rows as `column=value`, or a list of them",
    )
    max_dataset_size: int | None = Field(None, gt=0, description="at most this many documents")
    validation_fraction: float = Field(
        0.1, ge=0, lt=1, description="share of documents held out, chosen by a hash of the text"
    )
    seed: int = Field(0, ge=0, description="seed of the split")

    @model_validator(mode="after")
    def _keys_fit_source(self) -> "Corpus":
        if extra := sorted(self.model_fields_set - _KEYS[self.source]):
            allowed = ", ".join(sorted(_KEYS[self.source]))
            raise ValueError(f"source {self.source} does not read {extra[0]!r}; allowed: {allowed}")
        if self.source != "python-docs" and not self.path:
            raise ValueError(f"source {self.source} needs a path")
        if self.separator and self.separator_pattern:
            raise ValueError("separator and separator_pattern both end a step: give only one")
        if self.separator_pattern is not None:
            _check_pattern(self.separator_pattern)
        return self

    def params(self) -> dict[str, Any]:
        """Return the settings that this source reads, as plain JSON."""
        return self.model_dump(mode="json", include=_KEYS[self.source])

    @property
    def step_pattern(self) -> str | None:
        """The regular expression that ends a step, None where documents have no steps."""
        return self.separator_pattern or (self.separator and re.escape(self.separator))


def _check_pattern(pattern: str) -> None:
    try:
        matches_nothing = re.match(pattern, "") is not None
    except re.error as error:
        raise ValueError(f"separator_pattern is not a regular expression: {error}") from None
    if matches_nothing:
        raise ValueError(f"separator_pattern {pattern!r} matches an empty text: no step would end")


class Tokenizer(Strict):
    """A byte-level BPE tokenizer, trained on a corpus, or plain bytes, which need no training."""

    kind: Literal["bpe", "bytes"] = Field(
        "bpe", description="bytes: each is a token, 0 to 255, then BOS, EOS and padding"
    )
    corpus: Name | None = Field(
        None, description="bpe: corpus whose training documents it is trained on"
    )
    vocab_size: int = Field(
        4096, ge=259, le=262144, description="256 bytes + 3 specials + merges; kind bytes: 259"
    )

    @model_validator(mode="before")
    @classmethod
    def _size_of_bytes(cls, raw: Any) -> Any:
        if isinstance(raw, dict) and raw.get("kind") == "bytes":
            return {"vocab_size": 259, **raw}
        return raw

    @model_validator(mode="after")
    def _consistent(self) -> "Tokenizer":
        if self.kind == "bpe" and self.corpus is None:
            raise ValueError("a bpe tokenizer needs a corpus to be trained on")
        if self.kind == "bytes" and (self.corpus is not None or self.vocab_size != 259):
            raise ValueError(
                "kind bytes has 259 tokens and is not trained: leave out corpus and vocab_size"
            )
        return self
