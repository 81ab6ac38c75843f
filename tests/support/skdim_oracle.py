"""scikit-dimension's own numbers for a cloud, under our names."""

import warnings
from collections.abc import Iterable

import numpy as np
import skdim
from scipy.optimize import brentq
from skdim._commonfuncs import get_nn

_OWN = {
    "mle": lambda points: skdim.id.MLE().fit_transform(points),
    "mle_inv": lambda points: skdim.id.MLE().fit(points).dimension_,
    "mle_lb": lambda points: skdim.id.MLE(unbiased=True).fit_transform(points),
    "twoNN_f10": lambda points: skdim.id.TwoNN(discard_fraction=0.1).fit(points).dimension_,
    "twoNN_f25": lambda points: skdim.id.TwoNN(discard_fraction=0.25).fit(points).dimension_,
    "twoNN_mle": lambda points: skdim.id.TwoNN(method="mle").fit(points).dimension_,
    "mind_ml": lambda points: mind_ml(points),
    "gride_2": lambda points: skdim.id.GRIDE(n1=1).fit(points).dimension_,
    "gride_4": lambda points: skdim.id.GRIDE(n1=2).fit(points).dimension_,
    "gride_8": lambda points: skdim.id.GRIDE(n1=4).fit(points).dimension_,
    "gride_16": lambda points: skdim.id.GRIDE(n1=8).fit(points).dimension_,
}


def reference(points: np.ndarray, names: Iterable[str] = tuple(_OWN)) -> dict[str, float]:
    """Return what scikit-dimension says of `points` (N, D), centred and in float64.

    Not centred, its own float64 product is wrong by 4e-6 where all coordinates lie near 3000.
    """
    points = points.astype(np.float64)
    points = points - points.mean(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {name: float(_OWN[name](points)) for name in names if name in _OWN}


def mind_ml(points: np.ndarray) -> float:
    """Return MiND_ML of scikit-dimension, or the maximum of its likelihood where it missed that.

    On some clouds its optimiser's first step reaches d = 0, where its gradient is a made-up -1e30,
    and it gives up at the integer it started from.
    """
    estimator = skdim.id.MiND_ML(k=20, D=20)
    found = estimator.fit(points).dimension_
    nearest = get_nn(points, 21)[0]
    ratios = nearest[:, 0] / nearest[:, -1]
    arguments = (ratios, len(ratios))
    if estimator._nlld_gr(20.0, *arguments) < 0:  # the likelihood still rises at the cap
        return found
    root = brentq(estimator._nlld_gr, 1e-3, 20.0, args=arguments, xtol=1e-12)
    missed = estimator._nlld(root, *arguments) < estimator._nlld(found, *arguments) - 1e-4
    return root if missed else found


TOLERANCE = {"mind_ml": 1e-5}
"""Relative; 1e-6 where not named. scikit-dimension's own optimiser stops near 1e-7."""


def disagreements(ours, theirs: dict[str, float]) -> dict[str, tuple[float, float]]:
    """Return the estimators that differ by more than their tolerance, with both values."""
    return {
        name: (ours[name], value)
        for name, value in theirs.items()
        if not abs(ours[name] / value - 1) <= TOLERANCE.get(name, 1e-6)
    }
