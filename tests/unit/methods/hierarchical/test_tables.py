"""Tables of the report."""

from typing import Any

import pytest

import tiny_hierarchical
from terse.corpora.token_store import TokenStore
from terse.methods.hierarchical import tables as report_tables
from terse.methods.hierarchical.evaluation import batches
from terse.methods.hierarchical.rows import ScoringRows
from terse.training.method import Inputs
from tiny_hierarchical import LEVELS


def test_clouds_read_no_more_rows_than_they_need(
    text: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert text.tokens is not None
    found = tiny_hierarchical.model(*LEVELS)
    scored = ScoringRows(TokenStore(text.tokens, "validation"), 32)
    every = report_tables.clouds(found, scored)
    assert min(len(points) for points in every.values()) > 20
    asked: list[Any] = []
    monkeypatch.setattr(
        report_tables, "batches", lambda *a: (asked.append(0) or batch for batch in batches(*a))
    )
    monkeypatch.setattr(report_tables, "MOST_SEGMENTS", 20)
    few = report_tables.clouds(found, scored)
    assert {key: points.tolist() for key, points in few.items()} == {
        key: points[:20].tolist() for key, points in every.items()
    }
    assert len(asked) < len(scored) / found.settings.batch_size / 3
