"""Training a tokenizer takes time linear in the longest word of a corpus."""

import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from terse.corpora.documents import SCHEMA
from terse.corpora.tokenizers import LONGEST_RUN, parts, train_bpe


def letters(n: int, seed: int = 0) -> str:
    return "".join(np.random.default_rng(seed).choice(list("abcdefgh"), n))


@pytest.mark.parametrize(
    "text",
    ["", "a b", "x" * LONGEST_RUN, "x" * (LONGEST_RUN + 1), " " * 2500,
     "x" * 3500 + " y " + "z" * 2001, "a" + "\n" * 1200 + "b" * 999],
)  # fmt: skip
def test_long_runs_are_cut_and_nothing_is_lost(text: str) -> None:
    found = list(parts(text))
    assert "".join(found) == text
    longest = max(len(word) for part in found for word in part.split() or [part])
    assert longest <= LONGEST_RUN
    if len(max(text.split() or [text], key=len)) <= LONGEST_RUN:
        assert found == [text] or " " * 1001 in text or "\n" * 1001 in text


def test_a_long_text_without_a_space_takes_seconds(tmp_path: Path) -> None:
    """Uncut, time is quadratic in its length: minutes."""
    text = letters(400_000)
    row = {"id": "a", "text": text, "n_bytes": len(text), "split": "train", "metadata": "{}"}
    pq.write_table(pa.Table.from_pylist([row], schema=SCHEMA), tmp_path / "d.parquet")
    start = time.process_time()
    tokenizer = train_bpe(tmp_path / "d.parquet", vocab_size=300, seed=0, folder=tmp_path / "t")
    assert time.process_time() - start < 30
    assert tokenizer.decode(tokenizer.encode(text[:3000])) == text[:3000]
