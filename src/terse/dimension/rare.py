"""scikit-dimension's rarer estimators, in its own code, in parallel over clouds and estimators.

Bac et al. 2021, https://doi.org/10.3390/e23101368; each estimator cites its own paper.
"""

import inspect
import logging
import os
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from joblib import Parallel, delayed

from terse.dimension.names import REPEATED, SLOW
from terse.errors import TerseError

logger = logging.getLogger(__name__)

SEED = 0
"""Seed of the estimators that draw random numbers (DANCo, ESS, KNN, PH, lPCA), and of the points
drawn; `REPEATED` ones take the seeds from it on."""

UNSTABLE = 0.1
"""Interquartile range of the draws over their median from which on an estimate is unstable."""

FEWEST = 22
"""Points below which no estimate is made."""

COSTS = {"DANCo": (10, 1.1), "ESS": (19, 2.0), "FisherS": (0.015, 1.6), "PH": (1.1, 1.75)}
"""CPU seconds for a cloud of 128 points in 576 dimensions, and the power of the number of points
with which they grow: scikit-dimension 0.5.0, from 64 to 256 points, after the first call."""

INTERVAL_S = 30.0
"""Seconds between two lines of progress."""


@dataclass(frozen=True)
class Found:
    """What an estimator says of one cloud.

    reason: why the value is NaN, or "". spread: the interquartile range over the draws of which the
    value is the median, NaN where there is one draw. flags: words, see `Estimates.flags`.
    """

    value: float
    reason: str = ""
    spread: float = float("nan")
    flags: frozenset[str] = frozenset()


def estimate_rare(
    clouds: Sequence[np.ndarray],
    names: Sequence[str],
    n_jobs: int | None,
    slow_max_points: int | None = None,
) -> list[dict[str, Found]]:
    """Return what each estimator says of each cloud.

    Logs a line every 30 s.

    Args:
        clouds: (n, D) float64 each, finite and distinct points.
        names: classes of `skdim.id`.
        n_jobs: processes; None for all CPUs that this process may use.
        slow_max_points: see `terse.dimension.estimate`.
    """
    tasks = [(cloud, name, slow_max_points) for cloud in clouds for name in names]
    jobs = min(n_jobs or cpus(), len(tasks))
    if jobs > 1:
        found = Parallel(n_jobs=jobs, return_as="generator")(delayed(_one)(*t) for t in tasks)
    else:
        found = (_one(*task) for task in tasks)
    values = _told(cast(Iterator[Found], iter(found)), len(tasks), names)
    return [{name: next(values) for name in names} for _ in clouds]


def slow_seconds(names: Iterable[str], n_points: int) -> float:
    """Return about how many CPU seconds the slow ones of `names` take for one cloud."""
    costs = [COSTS[name] for name in names if name in COSTS]
    return sum(seconds * (n_points / 128) ** power for seconds, power in costs)


def cpus() -> int:
    """Return how many CPUs this process may use."""
    return len(os.sched_getaffinity(0))


def check_limit(slow_max_points: int | None) -> None:
    """Raise TerseError for a limit that leaves too few points."""
    if slow_max_points is not None and not slow_max_points >= FEWEST:
        raise TerseError(
            f"slow_max_points is {slow_max_points!r}; allowed: {FEWEST} or more, or None"
        )


def _told(found: Iterator[Found], n: int, names: Sequence[str]) -> Iterator[Found]:
    """Yield what is found, and log a line at most every 30 s."""
    told = time.monotonic()
    for done, one in enumerate(found, 1):
        if time.monotonic() - told >= INTERVAL_S:
            told = time.monotonic()
            logger.info("%s: %d of %d estimates", ", ".join(names), done, n)
        yield one


def _one(points: np.ndarray, name: str, slow_max_points: int | None) -> Found:
    """Run one estimator on one cloud, on as many points and as often as it should be."""
    flags: set[str] = set()
    if name in SLOW and slow_max_points is not None and len(points) > slow_max_points:
        draw = np.random.default_rng(SEED).choice(len(points), slow_max_points, replace=False)
        points = points[np.sort(draw)]
        flags.add("subsampled")
    try:
        values = [_run(points, name, SEED + i) for i in range(REPEATED.get(name, 1))]
    except Exception as error:  # scikit-dimension's estimators raise exceptions of many types
        return _failed(f"{type(error).__name__}: {error}", flags)
    return _median(values, name, flags)


def _run(points: np.ndarray, name: str, seed: int) -> float:
    import skdim.id

    estimator = getattr(skdim.id, name)
    known = inspect.signature(estimator).parameters
    settings = {"random_state": seed, "verbose": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = estimator(**{key: settings[key] for key in settings if key in known})
        return float(np.squeeze(fitted.fit_transform(points)))


def _median(values: Iterable[float], name: str, flags: set[str]) -> Found:
    drawn = np.asarray(list(values))
    value = float(np.median(drawn))
    if not np.isfinite(value):
        return _failed(f"{name} returned {value}", flags)
    if len(drawn) == 1:
        return Found(value, flags=frozenset(flags))
    low, high = np.quantile(drawn, [0.25, 0.75])
    spread = float(high - low)
    if not spread <= UNSTABLE * abs(value):
        flags = flags | {"unstable"}
    return Found(value, spread=spread, flags=frozenset(flags))


def _failed(why: str, flags: set[str]) -> Found:
    return Found(float("nan"), f"failed: {why}", flags=frozenset(flags | {"failed"}))
