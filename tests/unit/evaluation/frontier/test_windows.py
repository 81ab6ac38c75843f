"""Windows: whole characters, given sizes, no overlap, as many documents as possible."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from terse.corpora.documents import write_documents
from terse.errors import TerseError
from terse.evaluation.frontier.windows import (
    cut_windows,
    digest_text,
    read_windows,
    seen_in_training,
    write_windows,
)
from terse.settings.corpora import Corpus
from tiny_frontier import windows


def document(name: str, text: str, ends: list[int] | None = None) -> dict[str, Any]:
    metadata = {} if ends is None else {"step_ends": ends}
    return {"id": name, "text": text, "metadata": json.dumps(metadata)}


def test_pieces_of_the_text_of_about_the_given_size() -> None:
    text = "aä€😀" * 200  # 1, 2, 3 and 4 bytes
    found = cut_windows([document("d", text)], n_windows=4, context_bytes=100, target_bytes=30)
    assert len(found) == 4
    last = 0
    for window in found:
        encoded = text.encode()[window.start :]
        assert encoded.startswith((window.context + window.target).encode())
        assert 97 <= window.context_bytes <= 103
        assert 27 <= window.target_bytes <= 33
        assert window.start >= last
        last = window.start + window.context_bytes + window.target_bytes
        assert window.digest == digest_text(text)


def test_each_document_has_one_before_any_has_two() -> None:
    texts = [document(str(i), "x" * n) for i, n in enumerate([900, 900, 200, 100, 50])]
    names = [
        [w.document for w in cut_windows(texts, n_windows=n, context_bytes=60, target_bytes=20)]
        for n in (2, 4, 5)
    ]
    assert [len(set(found)) for found in names] == [2, 4, 4]
    assert sorted(names[1]) == ["0", "1", "2", "3"]


def test_documents_that_are_too_short_are_named() -> None:
    with pytest.raises(TerseError, match=r"no document .* 60 \+ 20 bytes; the longest has 70"):
        cut_windows([document("d", "x" * 70)], n_windows=1, context_bytes=60, target_bytes=20)


def test_less_room_than_windows_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        found = cut_windows(
            [document("d", "x" * 200)], n_windows=9, context_bytes=60, target_bytes=20
        )
    assert len(found) == 2
    assert "room for 2 windows, not 9" in caplog.text


def test_steps_end_where_the_document_says() -> None:
    (found,) = cut_windows(
        [document("d", "x" * 96, [10, 20, 30, 96])], n_windows=1, context_bytes=60, target_bytes=20
    )
    start = found.start
    ends = [end - start for end in (10, 20, 30) if start < end < start + 60]
    assert found.piece_ends == (*ends, 60)


def test_windows_survive_the_disk(tmp_path: Path) -> None:
    for found in (windows(3), cut_windows([document("d", "x" * 99)], n_windows=1, context_bytes=60,
                                          target_bytes=20)):  # fmt: skip
        write_windows(found, tmp_path / "w.parquet")
        assert read_windows(tmp_path / "w.parquet") == found


def test_the_overlap_counts_documents(tmp_path: Path) -> None:
    corpus = Corpus(source="python-docs", max_dataset_size=40, validation_fraction=0.0)
    write_documents(corpus, tmp_path / "d.parquet")
    found = windows(3)
    seen = seen_in_training(found, [tmp_path / "d.parquet"])
    first = min(found, key=lambda window: window.document)
    assert f"trained on 3 of the 3 documents, such as {first.document}" in seen
    assert first.digest[:12] in seen
    held_out = corpus.model_copy(update={"validation_fraction": 0.9999})
    write_documents(held_out, tmp_path / "v.parquet")
    assert seen_in_training(found, [tmp_path / "v.parquet"]) == ""
