"""scikit-dimension's rarer estimators, in its own code, in parallel over clouds and estimators.

Bac et al. 2021, https://doi.org/10.3390/e23101368; each estimator cites its own paper.
"""

import inspect
import os
import warnings
from collections.abc import Iterator, Sequence
from typing import cast

import numpy as np
from joblib import Parallel, delayed

SEED = 0
"""Seed of the estimators that draw random numbers (DANCo, ESS, KNN, PH, lPCA)."""


def estimate_rare(
    clouds: Sequence[np.ndarray], names: Sequence[str], n_jobs: int | None
) -> list[dict[str, tuple[float, str]]]:
    """Return, for each cloud, each estimator's value and why it is NaN ("" if it is not).

    Args:
        clouds: (n, D) float64 each, finite and distinct points.
        names: classes of `skdim.id`.
        n_jobs: processes; None for all CPUs that this process may use.
    """
    jobs = n_jobs or len(os.sched_getaffinity(0))
    tasks = [(cloud, name) for cloud in clouds for name in names]
    jobs = min(jobs, len(tasks))
    if jobs > 1:
        found = Parallel(n_jobs=jobs, return_as="generator")(delayed(_one)(*t) for t in tasks)
    else:
        found = (_one(*task) for task in tasks)
    values = cast(Iterator[tuple[float, str]], iter(found))
    return [{name: next(values) for name in names} for _ in clouds]


def _one(points: np.ndarray, name: str) -> tuple[float, str]:
    """Run one estimator on one cloud; an exception becomes the reason."""
    import skdim.id

    estimator = getattr(skdim.id, name)
    known = inspect.signature(estimator).parameters
    settings = {"random_state": SEED, "verbose": False}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fitted = estimator(**{key: settings[key] for key in settings if key in known})
            value = float(np.squeeze(fitted.fit_transform(points)))
    except Exception as error:  # scikit-dimension's estimators raise exceptions of many types
        return float("nan"), f"failed: {type(error).__name__}: {error}"
    return value, "" if np.isfinite(value) else f"failed: {name} returned {value}"
