"""Asking a model as lm-eval does, and what holds for every correct one."""

import itertools
from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.instance import Instance

from terse.evaluation.lm_eval.block_text import BlockText
from terse.evaluation.lm_eval.harness import language_model

TEXT = "Once there was a text that is longer than a window of some tokens; it went on and on, über."


def ask(lm: Any, kind: str, *arguments: tuple[Any, ...]) -> list[Any]:
    """Return the answers to requests of a kind, each with its arguments."""
    requests: Any = [
        Instance(kind, doc={}, arguments=args, idx=i)  # type: ignore[arg-type]
        for i, args in enumerate(arguments)
    ]
    return getattr(lm, kind)(requests)


def pieces(lm: BlockText, *cuts: int) -> list[str]:
    """Return the text cut between tokens, but not after a space, which belongs to what follows."""
    tokens = lm.encode(TEXT)
    bounds = [0, *cuts, len(tokens)]
    parts = [lm.decode(tokens[a:b]) for a, b in itertools.pairwise(bounds)]
    assert "".join(parts) == TEXT
    assert not any(part.endswith(" ") for part in parts)
    return parts


def check_that_parts_add_up(lm: BlockText, cut: int) -> None:
    """Likelihoods of three parts, and of the last two, from a cut on; and of the whole, rolling."""
    a, b, c = pieces(lm, cut, cut + 5)
    pairs = [("", TEXT), ("", a), (a, b), (a + b, c), (a, b + c)]
    (whole, _), (first, _), (second, _), (third, _), (rest, _) = ask(lm, "loglikelihood", *pairs)
    assert whole == pytest.approx(first + second + third, rel=1e-5)
    assert rest == pytest.approx(second + third, rel=1e-5)
    assert ask(lm, "loglikelihood_rolling", (TEXT,))[0] == pytest.approx(whole, rel=1e-6)


def check_that_the_start_is_plain(lm: BlockText, base: Path) -> None:
    """What no window goes before has the likelihood that a language model in a folder gives it."""
    start = lm.decode(lm.encode(TEXT)[: lm.context])
    plain = language_model(base, device="cpu", batch_size=2)
    expected = ask(plain, "loglikelihood", ("", start))[0][0]
    assert ask(lm, "loglikelihood", ("", start))[0][0] == pytest.approx(expected, rel=1e-4)


def check_that_order_and_batch_size_change_nothing(lm: BlockText) -> None:
    """Texts of many lengths, asked together, backwards and one by one."""
    pairs = [("a context", " x"), ("", TEXT), (TEXT, " and more"), ("b ", "c" * 40), ("", "z")]
    expected = ask(lm, "loglikelihood", *pairs)
    backwards = ask(lm, "loglikelihood", *pairs[::-1])[::-1]
    one_by_one = [ask(lm, "loglikelihood", pair)[0] for pair in pairs]
    for other in (backwards, one_by_one):
        for (ours, greedy), (theirs, flag) in zip(other, expected, strict=True):
            assert ours == pytest.approx(theirs, rel=1e-4)
            assert greedy == flag


def check_that_the_likeliest_is_written(lm: BlockText, n: int) -> None:
    """Behind the first n tokens: what is written is greedy by the scores of its window."""
    context = lm.encode(TEXT)[:n]
    written = list(itertools.islice(lm.write(context), 20))
    assert len(written) > 8
    for place in range(n, n + len(written)):
        begin, _ = lm.window(place)
        row = (context + written)[begin : place + 1]
        assert lm.score([row])[0][1][-1]
        other = [*row[:-1], (row[-1] + 1) % 250 + 3]
        assert not lm.score([other])[0][1][-1]
