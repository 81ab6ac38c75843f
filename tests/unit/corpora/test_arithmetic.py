"""Arithmetic problems and their worked solutions."""

import random
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from terse.corpora.arithmetic.characters import EOS, NULL, PAD, VOCAB_SIZE, decode, encode
from terse.corpora.arithmetic.expressions import commuted, read, value, write
from terse.corpora.arithmetic.problems import Drawer, Environment, make_splits
from terse.corpora.arithmetic.solution import solve
from terse.errors import TerseError

VECTORS = {
    "1+12": "2+1+10=3+10=13",
    "802+203": "2+800+203=3+2+800+200=5+800+200=805+200=1005",
    "99+99": "9+90+99=9+9+90+90=18+90+90=90+108=198",
    "3*2+18": "2*3+18=3+3+18=8+3+3+10=3+11+10=1+3+10+10=4+10+10=14+10=24",
    "0*5": "0",
    "5+5+5": "5+10=15",
    "999+1": "1+999=9+1+990=10+990=1000",
}
ENVIRONMENTS = st.builds(
    Environment,
    max_num=st.integers(1, 5000),
    max_ents=st.integers(2, 6),
    p_mult=st.floats(0, 1),
    max_mult_num=st.integers(0, 12),
    p_ent=st.floats(0, 1),
    space_mults=st.booleans(),
    zipf_order=st.sampled_from([0.0, 1.0, 2.5]),
)


@pytest.mark.parametrize(("problem", "chain"), VECTORS.items())
def test_chains_are_those_of_the_specification(problem: str, chain: str) -> None:
    assert "=".join(solve(read(problem))[1:]) == chain


@settings(max_examples=40, deadline=None)  # chains of large products are long
@given(ENVIRONMENTS, st.integers(0, 10**9))
def test_each_statement_is_worth_what_the_problem_is(environment: Environment, seed: int) -> None:
    problem = Drawer(environment).problem(random.Random(seed))
    chain = solve(problem)
    assert chain[0] == write(problem)
    terms = [read(statement) for statement in chain]
    assert {value(found) for found in terms} == {value(problem)}
    assert chain[-1] == str(value(problem))
    assert len(set(chain)) == len(chain)
    assert len(chain) > 1


@settings(max_examples=80, deadline=None)
@given(ENVIRONMENTS, st.integers(0, 10**9))
def test_each_step_is_one_small_move(environment: Environment, seed: int) -> None:
    """Two terms at most go, two at most come, after the sorted problem."""
    chain = solve(Drawer(environment).problem(random.Random(seed)))
    start = 1 if len(chain) > 1 and commuted(read(chain[0])) == commuted(read(chain[1])) else 0
    for before, after in pairwise(chain[start:]):
        old, new = (Counter(commuted(read(text))) for text in (before, after))
        assert (old - new).total() <= 2
        assert (new - old).total() <= 2


@settings(max_examples=100, deadline=None)
@given(ENVIRONMENTS, st.integers(0, 10**9))
def test_problems_are_within_their_environment(environment: Environment, seed: int) -> None:
    rng, drawer, e = random.Random(seed), Drawer(environment), environment
    for _ in range(5):
        problem = drawer.problem(rng)
        assert 2 <= sum(map(len, problem)) <= e.max_ents
        for factors in problem:
            top = e.max_num if len(factors) == 1 else e.max_mult_num
            assert all(0 <= factor <= top for factor in factors)
            assert not e.space_mults or len(factors) <= 2
    beyond = drawer.beyond(rng, 3 * max(e.max_num, e.max_mult_num))
    largest = max(n for factors in beyond for n in factors)
    assert e.max_num < largest <= 3 * max(e.max_num, e.max_mult_num)


def test_numbers_are_drawn_as_told() -> None:
    rng = random.Random(0)
    flat, zipf = Drawer(Environment(9)), Drawer(Environment(9, zipf_order=2.0))
    for drawer, expected in ((flat, 0.1), (zipf, 1 / sum(k**-2.0 for k in range(1, 11)))):
        drawn = [n for _ in range(3000) for (n,) in drawer.problem(rng)]
        assert abs(drawn.count(0) / len(drawn) - expected) < 0.03
    many = Drawer(Environment(9, max_ents=4, p_ent=0.3, p_mult=0.4, space_mults=False))
    problems = [many.problem(rng) for _ in range(4000)]
    assert abs(np.mean([sum(map(len, p)) for p in problems]) - 2.6) < 0.05
    gaps = [(len(f) - 1, 1) for p in problems for f in p]
    n_mult = sum(n for n, _ in gaps)
    n_plus = sum(len(p) - 1 for p in problems)
    assert abs(n_mult / (n_mult + n_plus) - 0.4) < 0.03


@settings(max_examples=25, deadline=None)
@given(ENVIRONMENTS.filter(lambda e: e.max_num > 60 and e.p_mult < 0.5), st.integers(0, 10**6))
def test_splits_share_nothing_under_commutation(environment: Environment, seed: int) -> None:
    most = 2 * max(environment.max_num, environment.max_mult_num) + 1
    sizes = {"n_train": 300, "n_validation": 40, "ood_max_num": most}
    splits = make_splits(environment, seed=seed, **sizes)
    train, validation, ood = (
        {commuted(problem) for problem in part}
        for part in (splits.train, splits.validation, splits.ood)
    )
    assert not train & validation
    assert not ood & (train | validation)
    assert len(validation) == len(ood) == 40
    assert len(splits.train) == 300
    assert splits == make_splits(environment, seed=seed, **sizes)
    assert splits != make_splits(environment, seed=seed + 1, **sizes)


def test_an_exhausted_environment_says_so() -> None:
    with pytest.raises(TerseError, match="only about 3 distinct problems, not 4"):
        make_splits(Environment(1), seed=0, n_train=1, n_validation=4, ood_max_num=9)
    with pytest.raises(TerseError, match="all problems of the environment are held out"):
        make_splits(Environment(1), seed=0, n_train=1, n_validation=3, ood_max_num=9)


def test_characters_are_eighteen_and_come_back() -> None:
    text = "12+3*4-5/6=0789"
    tokens = encode(text)
    assert VOCAB_SIZE == 18
    assert decode(tokens) == text
    assert decode(np.concatenate([tokens, [EOS, 9, PAD]])) == text
    assert decode(np.concatenate([tokens, [PAD, PAD]])) == text
    assert decode(np.concatenate([[PAD], tokens, [NULL, EOS, PAD]])) == f"_{text}_"
    assert len({*encode("=+*/-0123456789")} | {PAD, 1, EOS}) == 18
    with pytest.raises(TerseError, match="'x' is not a character"):
        encode("2x")


@pytest.mark.parametrize("text", ["", "+1", "1+", "1**2", "01", "1-2", "1+a", "1 + 2"])
def test_what_is_no_statement_is_not_read(text: str) -> None:
    assert read(text) is None
