"""Small corpora, made once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from terse.corpora.documents import write_documents
from terse.corpora.tokenizers import train_bpe
from terse.corpora.tokens import tokenize_documents
from terse.settings.corpora import Corpus

WORDS = [
    "how",
    "few",
    "tokens",
    "codes",
    "and",
    "dimensions",
    "does",
    "a",
    "language",
    "model",
    "need",
    "über",
    "東京",
    "🙂",
    "naïve",
]


@pytest.fixture(scope="session")
def settings_of() -> Callable[..., Corpus]:
    """Return a function that makes a corpus' settings, a quarter of it held out."""

    def make(source: str, **changes: Any) -> Corpus:
        return Corpus.model_validate({"source": source, "validation_fraction": 0.25, **changes})

    return make


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """40 texts of 1 to 190 words, ASCII and not."""
    return [
        " ".join(WORDS[(i * 7 + j * j) % len(WORDS)] for j in range(1 + (i * i) % 190))
        + ("\n" if i % 3 else "")
        for i in range(40)
    ]


@pytest.fixture(scope="session")
def documents_path(tmp_path_factory: pytest.TempPathFactory, settings_of, texts) -> Path:
    """A documents file of the texts."""
    folder = tmp_path_factory.mktemp("documents")
    pq.write_table(pa.table({"text": texts, "n": range(len(texts))}), folder / "raw.parquet")
    write_documents(settings_of("parquet", path=str(folder)), folder / "out" / "d.parquet")
    return folder / "out" / "d.parquet"


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory, documents_path):
    """A byte-level BPE of 300 tokens."""
    folder = tmp_path_factory.mktemp("tokenizer") / "bpe"
    return train_bpe(documents_path, vocab_size=300, seed=0, folder=folder)


@pytest.fixture(scope="session")
def tokens_path(tmp_path_factory: pytest.TempPathFactory, documents_path, tokenizer) -> Path:
    """A tokens file of the texts."""
    path = tmp_path_factory.mktemp("tokens") / "t.h5"
    tokenize_documents(documents_path, tokenizer, path)
    return path
