"""Wilson's interval against scipy."""

import pytest

from terse.evaluation.proportions import wilson


def test_wilsons_interval() -> None:
    from scipy.stats import binomtest

    for hits, n in ((0, 10), (3, 10), (99, 100)):
        exact = binomtest(hits, n).proportion_ci(method="wilson")
        assert wilson(hits, n) == pytest.approx((exact.low, exact.high))
