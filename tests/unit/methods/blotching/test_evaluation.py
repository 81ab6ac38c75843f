"""Scores of the method `blotching` against naive ones."""

from collections import Counter

import pandas as pd
import pytest

from terse.corpora.arithmetic.expressions import value
from terse.figures.study import FinishedRun
from terse.methods.blotching.evaluation import chance, score
from tiny_blotching import SMALL, blotching


def test_every_request_is_scored(runs: list[FinishedRun]) -> None:
    found = runs[0].evaluation.set_index(["arm", "measure"])["value"]
    for arm in ("greedy p=0", "greedy p=0.5", "T=0.7 p=1", "T=1 p=0.5", "ood greedy p=1"):
        for measure in ("accuracy", "ended", "length_ratio", "valid_statements"):
            assert found[arm, measure] >= 0
    assert 0 <= found["chance", "accuracy"] <= 0.5
    assert ("vote p=0.5", "accuracy") in found
    assert found["chains p=0.5", "loss_nats"] > 1
    ratio = found["chains p=1", "loss_nats_per_original_token"] / found["chains p=1", "loss_nats"]
    assert (
        ratio
        < found["chains p=0", "loss_nats_per_original_token"] / found["chains p=0", "loss_nats"]
        == pytest.approx(1)
    )
    vanilla = runs[2].evaluation
    assert "greedy" in set(vanilla["arm"])
    assert not vanilla["arm"].str.contains("p=0.5").any()


def test_a_score_is_of_all_problems_together() -> None:
    table = pd.DataFrame(
        {"is_right": [True, False], "ended": [True, True], "n_tokens": [2, 4],
         "gold_tokens": [10, 14], "n_valid": [1, 0], "n_statements": [1, 3]}
    )  # fmt: skip
    found = {m.measure: m.value for m in score("a", table)}
    assert found == {"accuracy": 0.5, "ended": 1, "length_ratio": 0.25, "valid_statements": 0.25}


def test_chance_is_the_commonest_answer_of_the_training() -> None:
    arithmetic = blotching(**SMALL | {"n_val_problems": 40}).arithmetic
    assert arithmetic is not None
    train, held_out = (
        [value(p) for p in part]
        for part in (arithmetic.problems.train, arithmetic.problems.validation)
    )
    guess = Counter(train).most_common(1)[0][0]
    assert Counter(held_out).most_common(1)[0][1] > held_out.count(guess)
    assert chance(arithmetic).value == held_out.count(guess) / 40
