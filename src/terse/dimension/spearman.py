"""Spearman's rank correlation over contexts, with an interval from resampled documents."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from terse.errors import TerseError

_N_RESAMPLES = 2000
_MOST_EXACT = 10**6  # pairs: four times the cube of their number is a whole number of 64 bits


class RankCorrelation(NamedTuple):
    """Spearman's rho, its 95 % interval, and the number of contexts it comes from."""

    rho: float
    low: float
    high: float
    n: int


def rank_correlation(
    x: np.ndarray, y: np.ndarray, groups: np.ndarray, seed: int
) -> RankCorrelation:
    """Return Spearman's rank correlation with a 95 % bootstrap interval over documents.

    Args:
        x, y: (n,) such as ID and loss per context; pairs with a NaN are left out of `n`.
        groups: (n,) the document of each context; whole documents are resampled.
        seed: of the 2000 resamples.

    Raises:
        TerseError: the arrays differ in length.
    """
    return rank_correlations([x], y, groups, seed)[0]


def rank_correlations(
    xs: Sequence[np.ndarray], y: np.ndarray, groups: np.ndarray, seed: int
) -> list[RankCorrelation]:
    """Return `rank_correlation` of several sides with one, such as of all layers with the loss.

    Those that are defined for the same contexts share the resamples, and the ranks of y in them.

    Args:
        xs, y: arrays (n,).
        groups, seed: as `rank_correlation`.

    Raises:
        TerseError: the arrays differ in length.
    """
    y, groups = np.asarray(y, np.float64), np.asarray(groups)
    sides = [np.asarray(x, np.float64) for x in xs]
    alike: dict[bytes, list[int]] = {}
    for number, x in enumerate(sides):
        if not len(x) == len(y) == len(groups):
            raise TerseError(
                f"x, y and groups have lengths {len(x)}, {len(y)}, {len(groups)}; they must be "
                "equal"
            )
        alike.setdefault((np.isfinite(x) & np.isfinite(y)).tobytes(), []).append(number)
    found: dict[int, RankCorrelation] = {}
    for mask, numbers in alike.items():
        at = np.frombuffer(mask, dtype=bool)
        together = _defined_correlations([sides[i][at] for i in numbers], y[at], groups[at], seed)
        found |= dict(zip(numbers, together, strict=True))
    return [found[number] for number in range(len(sides))]


def _defined_correlations(
    xs: list[np.ndarray], y: np.ndarray, groups: np.ndarray, seed: int
) -> list[RankCorrelation]:
    if not len(y):
        return [RankCorrelation(math.nan, math.nan, math.nan, 0)] * len(xs)
    names, place = np.unique(groups, return_inverse=True)
    of_copies = _ResampledRanks(xs, y, place)
    rhos = of_copies.correlations(np.ones(len(names), dtype=np.int64))
    if len(names) < 3:
        return [RankCorrelation(rho, math.nan, math.nan, len(y)) for rho in rhos]
    random = np.random.default_rng(seed)
    resampled = np.empty((_N_RESAMPLES, len(xs)))
    for row in resampled:
        drawn = random.integers(len(names), size=len(names))
        row[:] = of_copies.correlations(np.bincount(drawn, minlength=len(names)))
    edges = [
        (math.nan, math.nan) if math.isnan(rho) else np.nanquantile(column, [0.025, 0.975])
        for rho, column in zip(rhos, resampled.T, strict=True)
    ]
    return [
        RankCorrelation(rho, float(low), float(high), len(y))
        for rho, (low, high) in zip(rhos, edges, strict=True)
    ]


class _ResampledRanks:
    """Spearman's rho of pairs whose documents occur several times each, sorted only once.

    How many pairs lie below a value, and how many not above it, add up to twice its average rank
    less one: whole numbers, so no sum is rounded. With N pairs, S the sum of the products of both
    sides' numbers, and t the sizes of groups of equal values, four times the covariance of the
    ranks is (S - N^3) / N, and four times a side's variance (N^3 - sum of t^3) / 3 / N.

    Args:
        xs, y: arrays (n,) of finite numbers.
        documents: (n,) the number of each pair's document, from 0.
    """

    def __init__(self, xs: Sequence[np.ndarray], y: np.ndarray, documents: np.ndarray) -> None:
        self._sizes = np.bincount(documents)
        most = len(self._sizes) * int(self._sizes.max())
        kind = np.int64 if most < _MOST_EXACT else np.float64
        self._y, *self._xs = (_Order(side, documents, self._sizes, kind) for side in (y, *xs))
        self._places = [x.place[self._y.order] for x in self._xs]

    def correlations(self, copies: np.ndarray) -> list[float]:
        """Return each rho where document i occurs copies[i] times, (D,); NaN where constant."""
        total = int(self._sizes @ copies)
        if total < 2:
            return [math.nan] * len(self._xs)
        weights, of_y, cubes_y = self._y.ranks(copies)
        of_y, found = of_y * weights, []
        for x, places in zip(self._xs, self._places, strict=True):
            _, of_x, cubes_x = x.ranks(copies)
            product = (of_y @ of_x.take(places, mode="clip")).item() - total**3
            scale = math.sqrt((total**3 - cubes_x) / 12 * ((total**3 - cubes_y) / 12))
            found.append(product / 4 / scale if scale > 0 else math.nan)
        return found


class _Order:
    """The order of numbers (n,), in which equal ones are one group.

    Attributes:
        order: (n,) the places of the numbers in rising order.
        place: (n,) the place of each in that order.
    """

    def __init__(
        self, values: np.ndarray, documents: np.ndarray, sizes: np.ndarray, kind: type[Any]
    ) -> None:
        n, self.order = len(values), np.argsort(values, kind="stable")
        self.place = np.empty(n, dtype=np.int64)
        self.place[self.order] = np.arange(n)
        self._documents, self._sizes, self._kind = documents[self.order], sizes, kind
        ordered = values[self.order]
        first = np.concatenate([[True], ordered[1:] != ordered[:-1]])
        self._bounds = np.append(np.flatnonzero(first), n)
        self._group = None if first.all() else np.cumsum(first) - 1
        self._below = np.zeros(n + 1, dtype=np.int64)

    def ranks(self, copies: np.ndarray) -> tuple[np.ndarray, np.ndarray, int | float]:
        """Return how often each occurs and twice its rank less 1, and the sum of t^3.

        The two (n,) are in rising order of the numbers. copies: (D,) how often each document
        occurs.
        """
        # "clip" changes nothing; it spares a buffer.
        weights, below = copies.take(self._documents, mode="clip"), self._below
        np.cumsum(weights, out=below[1:])
        if self._group is None:
            twice, sizes, times = below[1:] + below[:-1], copies, self._sizes
        else:
            ends = below[self._bounds]
            twice, sizes, times = (ends[1:] + ends[:-1])[self._group], np.diff(ends), 1
        sizes = sizes.astype(self._kind, copy=False)
        cubes = (sizes * sizes * sizes * times).sum().item()
        return weights, twice.astype(self._kind, copy=False), cubes
