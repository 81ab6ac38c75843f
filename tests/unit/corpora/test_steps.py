"""Documents whose steps end with a separator."""

import itertools
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from terse.corpora.documents import read_documents, write_documents
from terse.corpora.steps import piece_ends
from terse.settings.corpora import Corpus


@given(st.text(alphabet="ab.\né🙂"), st.sampled_from(["\n", r"\.+", r"[.\n]\s*"]))
def test_pieces_are_the_text_cut_behind_its_separators(text: str, pattern: str) -> None:
    encoded = text.encode()
    stops = [0, *piece_ends(text, re.compile(pattern))]
    pieces = [encoded[a:b].decode() for a, b in itertools.pairwise(stops)]
    assert "".join(pieces) == text
    for piece in pieces[:-1]:
        matches = [m.end() for m in re.finditer(pattern, piece)]
        assert matches == [len(piece)]


def test_a_corpus_writes_where_its_steps_end(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("2 + 3 * 4\n= 2 + 12\n= 14\n", encoding="utf-8")
    (tmp_path / "b.txt").write_text("é. Second? Third", encoding="utf-8")
    common = {"source": "text", "path": str(tmp_path), "validation_fraction": 0.0}
    for keys, ends in (
        ({"separator": "\n"}, [[10, 19, 24], [17]]),
        ({"separator_pattern": r"[.?]\s+"}, [[24], [4, 12, 17]]),
    ):
        write_documents(Corpus(**common, **keys), tmp_path / "d.parquet")
        rows = [row for rows in read_documents(tmp_path / "d.parquet") for row in rows]
        assert [json.loads(row["metadata"])["step_ends"] for row in rows] == ends
    write_documents(Corpus(**common), tmp_path / "d.parquet")
    rows = [row for rows in read_documents(tmp_path / "d.parquet") for row in rows]
    assert "step_ends" not in rows[0]["metadata"]


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"separator_pattern": "("}, "not a regular expression"),
        ({"separator_pattern": "a*"}, "matches an empty text"),
        ({"separator_pattern": "a", "separator": "b"}, "give only one"),
    ],
)
def test_a_useless_separator_is_refused(keys: dict, reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        Corpus(source="python-docs", **keys)


def test_a_plain_separator_is_no_expression() -> None:
    assert Corpus(source="python-docs", separator=".").step_pattern == r"\."
