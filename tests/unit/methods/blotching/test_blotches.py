"""Which steps and tokens are left out."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from terse.corpora.arithmetic.characters import EOS, decode
from terse.corpora.arithmetic.expressions import read, value
from terse.errors import TerseError
from terse.methods.blotching.blotches import bin_of, dropped_steps, evenly, kept_tokens
from tiny_blotching import CHAIN, rng, settings


@given(
    st.floats(0, 1), st.sampled_from(["random", "equal"]), st.integers(0, 10**6),
    st.sampled_from([0.0, 0.4]),
)  # fmt: skip
def test_problem_first_separator_answer_and_eos_stay(
    p: float, spacing: str, seed: int, tok_drop_p: float
) -> None:
    chosen = settings(blotch_spacing=spacing, tok_drop_p=tok_drop_p)
    kept = CHAIN.tokens[kept_tokens(CHAIN, p, chosen, rng(seed))]
    text = decode(kept)
    assert text.startswith("3*2+18=")
    assert text.endswith("24")
    assert kept[-1] == EOS
    if not tok_drop_p:
        whole = decode(CHAIN.tokens).split("=")
        statements = text.split("=")
        assert all(value(read(statement)) == 24 for statement in statements)
        assert [s for s in whole if s in statements] == statements


def test_share_zero_keeps_all_and_share_one_the_answer() -> None:
    for spacing in ("random", "equal"):
        chosen = settings(blotch_spacing=spacing)
        assert kept_tokens(CHAIN, 0.0, chosen, rng(1)).all()
        kept = kept_tokens(CHAIN, 1.0, chosen, rng(1))
        assert decode(CHAIN.tokens[kept]) == "3*2+18=24"


def test_single_tokens_go_at_their_rate() -> None:
    kept = np.array([kept_tokens(CHAIN, 0.0, settings(tok_drop_p=0.3), rng(i)) for i in range(200)])
    inside = (CHAIN.steps > 0) & (CHAIN.steps < CHAIN.steps[-1])
    n = kept[:, inside].size
    assert abs(1 - kept[:, inside].mean() - 0.3) < 4 * math.sqrt(0.3 * 0.7 / n)
    assert kept[:, ~inside].all()


@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
def test_random_spacing_has_its_rate(p: float) -> None:
    chosen, n = settings(), 4000
    dropped = np.concatenate([dropped_steps(7, p, chosen, rng(i)) for i in range(n // 7)])
    bound = 4 * math.sqrt(p * (1 - p) / len(dropped))
    assert abs(dropped.mean() - p) < bound


def test_neighbours_stay_where_they_must_not_both_go() -> None:
    chosen = settings(contig_blotches=False)
    for i in range(50):
        dropped = dropped_steps(9, 0.9, chosen, rng(i))
        assert not (dropped[1:] & dropped[:-1]).any()
        assert dropped.sum() >= 2


@given(st.integers(0, 40), st.floats(0, 1))
def test_equal_spacing_has_its_exact_count(n: int, p: float) -> None:
    dropped = dropped_steps(n, p, settings(blotch_spacing="equal"), rng(3))
    count = math.floor(p * n + 0.5)
    assert dropped.sum() == count
    places = np.flatnonzero(dropped)
    assert list(places) == [math.floor((i + 0.5) * n / count) for i in range(count)]
    gaps = np.diff(places)
    assert len(gaps) == 0 or gaps.max() - gaps.min() <= 1


def test_evenly_spread_places_differ_by_one_at_most() -> None:
    for n in range(1, 30):
        for count in range(1, n + 1):
            gaps = np.diff(np.flatnonzero(evenly(n, count)))
            assert evenly(n, count).sum() == count
            assert not len(gaps) or gaps.max() - gaps.min() <= 1


def test_a_drawn_rounding_has_the_right_mean() -> None:
    chosen = settings(blotch_spacing="equal", equal_rounding="seeded")
    counts = [dropped_steps(7, 0.5, chosen, rng(i)).sum() for i in range(800)]
    assert set(counts) == {3, 4}
    assert abs(np.mean(counts) - 3.5) < 0.08


@pytest.mark.parametrize("n", [2, 5, 11])
def test_a_bin_stands_for_its_share_and_back(n: int) -> None:
    chosen = settings(n_btokens=n, blotch_p_min=0.1, blotch_p_max=0.9)
    shares = chosen.trained_ps()
    np.testing.assert_allclose(shares, np.linspace(0.1, 0.9, n))
    assert [bin_of(p, chosen) for p in shares] == list(range(n))
    for p in np.linspace(0.1, 0.9, 50):
        nearest = np.abs(np.array(shares) - p)
        assert nearest[bin_of(float(p), chosen)] <= nearest.min() + 1e-9
    for p in (0.09, 0.91, -1.0):
        with pytest.raises(TerseError, match=r"was not trained; allowed: 0\.1 to 0\.9"):
            bin_of(p, chosen)
