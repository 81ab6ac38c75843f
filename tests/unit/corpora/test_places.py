"""Places in documents: every one is drawn, none outside, and spreads are even."""

import numpy as np
import pytest

from terse.corpora.places import RandomPlaces, evenly


def test_each_place_of_each_document_is_equally_likely() -> None:
    counts = [3, 0, 1, 0, 4]
    places = RandomPlaces(counts, seed=5, n=4000)
    drawn = [places[i] for i in range(len(places))]
    expected = {(document, place) for document, n in enumerate(counts) for place in range(n)}
    assert set(drawn) == expected
    shares = np.array([drawn.count(place) for place in expected]) / len(drawn)
    np.testing.assert_allclose(shares, 1 / 8, atol=0.03)


def test_a_draw_is_a_function_of_seed_and_index() -> None:
    one, other = RandomPlaces([50, 50], seed=1, n=9), RandomPlaces([50, 50], seed=1, n=30)
    assert [one[i] for i in range(9)] == [other[i] for i in range(9)]
    assert [one[i] for i in range(9)] != [RandomPlaces([50, 50], seed=2, n=9)[i] for i in range(9)]
    for outside in (-1, 9):
        with pytest.raises(IndexError):
            one[outside]


def test_spreads_are_even_and_hold_no_index_twice() -> None:
    assert evenly(10, 4) == [0, 2, 5, 7]
    assert evenly(3, 10) == [0, 1, 2]
    assert evenly(0, 4) == []
    for n in range(1, 30):
        steps = np.diff([*evenly(29, n), 29])
        assert steps.min() >= 1
        assert steps.max() - steps.min() <= 1
