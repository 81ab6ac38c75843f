"""How the dimension depends on the scale at which a cloud is looked at."""

import math
from collections.abc import Iterable

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from terse.dimension.engine import estimate
from terse.dimension.names import expand_estimators
from terse.dimension.neighbours import N_NEIGHBOURS
from terse.dimension.results import Estimates
from terse.errors import TerseError

MAX_SUBSETS = 16
"""Disjoint subsets of one size that are measured."""

_COLUMNS = [
    "estimator", "n_points", "n_subsets", "id", "standard_error", "id_without_sinks",
    "standard_error_without_sinks", "radius", "radius_without_sinks",
]  # fmt: skip


def decimation_curve(
    points: np.ndarray | Tensor,
    estimators: Iterable[str] = ("twoNN_f10", "twoNN_mle", "gride"),
    *,
    n_min: int = 64,
    seed: int,
    **settings,
) -> pd.DataFrame:
    """Estimate on all points, on disjoint halves, quarters, ...: fewer points, larger scale.

    Points are drawn without replacement, since a bootstrap copy of a point is its own nearest
    neighbour (Facco et al. 2017, https://doi.org/10.1038/s41598-017-11873-y).

    Args:
        points: (N, D), as for `estimate`.
        estimators: names of estimators that come from neighbour distances.
        n_min: smallest subset, at least 22 points.
        seed: of the random partition.
        settings: of `estimate` (skip_first, theiler_window, precision, ...).

    Returns:
        One row per estimator and size: id (mean over subsets), standard_error (over subsets; of
        the estimator itself where there is one subset, NaN if it has none), radius (mean distance
        to the second neighbour), n_points, n_subsets (that gave a finite value); id_without_sinks,
        standard_error_without_sinks and radius_without_sinks, from the same subsets without their
        heavy points.

    Raises:
        TerseError: as `estimate`; not one cloud; n_min below 22 or above N.
    """
    names = expand_estimators(estimators)
    if points.ndim != 2:
        raise TerseError(f"points have shape {tuple(points.shape)}; a curve is of one cloud (N, D)")
    n = len(points)
    if not N_NEIGHBOURS < n_min <= n:
        raise TerseError(f"n_min is {n_min}; allowed: 22 to the number of points, {n}")
    order = torch.from_numpy(np.random.default_rng(seed).permutation(n))
    rows = []
    for halvings in range(int(math.log2(n / n_min)) + 1):
        size = n >> halvings
        subsets = [
            _subset(points, order[start : start + size])
            for start in range(0, min(n - size, (MAX_SUBSETS - 1) * size) + 1, size)
        ]
        rows += _measure(subsets, names, settings)
    return pd.DataFrame(rows, columns=pd.Index(_COLUMNS))


def _subset(points: np.ndarray | Tensor, chosen: Tensor) -> np.ndarray | Tensor:
    """Return the chosen points in their original order, which a Theiler window needs."""
    chosen = chosen.sort().values
    return points[chosen.to(points.device)] if isinstance(points, Tensor) else points[chosen]


def _measure(subsets: list, names: list[str], settings: dict) -> list[dict]:
    """Return one row per estimator for disjoint subsets of equal size."""
    found = [estimate(subset, names, distances=True, **settings) for subset in subsets]
    radii = [pair for one in found if (pair := _radii(one)) is not None]
    radius, light_radius = np.mean(radii, 0) if radii else (math.nan, math.nan)
    rows = []
    for name in names:
        finite = _finite([one[name] for one in found])
        light = _finite([one.without_sinks[name] for one in found])
        own, own_light = (
            float(errors.get(name, math.nan))
            for errors in (found[0].errors, found[0].errors_without_sinks)
        )
        rows.append(
            {
                "estimator": name,
                "n_points": len(subsets[0]),
                "n_subsets": len(finite),
                "id": float(finite.mean()) if len(finite) else math.nan,
                "standard_error": _error(finite, own),
                "id_without_sinks": float(light.mean()) if len(light) else math.nan,
                "standard_error_without_sinks": _error(light, own_light),
                "radius": float(radius),
                "radius_without_sinks": float(light_radius),
            }
        )
    return rows


def _radii(found: Estimates) -> tuple[float, float] | None:
    """Return the mean distance to the second neighbour, of all points and of the light ones.

    None if the cloud is refused.
    """
    distances, neighbours, sinks = found.distances, found.neighbours, found.sinks
    if distances is None or neighbours is None or sinks is None:
        return None
    used = np.flatnonzero(~np.isnan(distances[:, 0]))
    light = used[~sinks[used]]
    among = ~sinks[neighbours[light]]  # (m, 21)
    second = (among.cumsum(1) == 2).argmax(1)
    to_second = distances[light, second][among.sum(1) >= 2]
    return float(distances[used, 1].mean()), float(to_second.mean())


def _finite(values: list) -> np.ndarray:
    numbers = np.array(values, dtype=np.float64)
    return numbers[np.isfinite(numbers)]


def _error(values: np.ndarray, own: float) -> float:
    if len(values) < 2:
        return own
    return float(values.std(ddof=1) / math.sqrt(len(values)))
