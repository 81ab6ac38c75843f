"""Intervals from resampled documents take bounded memory, and are those of all draws at once."""

import tracemalloc

import numpy as np
import pytest

from terse.evaluation.scores import BLOCK, N_DRAWS, ratio_of_sums, resampled


@pytest.mark.parametrize("n", [1, 7, 3000, 10_001])
def test_blocks_are_the_draws_of_one_piece(n: int) -> None:
    whole = np.random.default_rng(3).integers(n, size=(N_DRAWS, n))
    at = 0
    for block in resampled(n, 3):
        assert block.size <= max(BLOCK, n)
        assert np.array_equal(block, whole[at : at + len(block)])
        at += len(block)
    assert at == N_DRAWS


def test_an_interval_takes_bounded_memory() -> None:
    draw = np.random.default_rng(0)
    top, bottom = draw.random(20_000), np.ones(20_000)
    tracemalloc.start()
    found = ratio_of_sums("a", "m", top, bottom)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200 * 2**20  # all at once: 600 MiB
    half = 1.96 * top.std() / len(top) ** 0.5
    assert found.interval_low == pytest.approx(found.value - half, abs=half / 5)
    assert found.interval_high == pytest.approx(found.value + half, abs=half / 5)
