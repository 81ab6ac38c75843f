"""Scores of the round trip."""

import pytest

from terse.corpora.token_store import TokenStore
from terse.methods.hierarchical import evaluation
from terse.methods.hierarchical.rows import ScoringRows
from terse.training.method import Inputs
from tiny_hierarchical import model


def test_a_copy_is_judged_in_place_and_out_of_place(
    text: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert text.tokens is not None
    scored = ScoringRows(TokenStore(text.tokens, "validation"), 32)
    texts = evaluation.some_texts(scored)
    found = []
    for copies in (texts, [b"!" + t for t in texts], [t[::-1] for t in texts]):
        monkeypatch.setattr(evaluation, "decompress", lambda _model, _codes, c=copies: c)
        found.append([m.value for m in evaluation.round_trip(model(), scored)])
    (in_place, exact, alike), (moved, one_more, still_alike), (_, _, backwards) = found
    assert (in_place, exact, alike) == (1.0, 1.0, 1.0)
    assert moved < 0.4
    assert one_more == 0.0
    assert still_alike > 0.9
    assert backwards < 0.5
