"""The neighbour pass of one cloud on a CPU: a float32 product, compiled loops around it.

All of it is NumPy: in the few milliseconds of a cloud a hundred small tensor operations would show.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.linalg import blas
from torch import Tensor

from terse.dimension import kernels
from terse.dimension.covariance import Linear, Moments, both_linear
from terse.dimension.gram import N_OUTLIERS, OUTLIER_SHARE, Workspace

N_NEIGHBOURS = 21
"""Neighbours that the estimators see: r_1 to r_21."""

N_CANDIDATES = 24
"""Candidates per point, nearest according to the product, for the true neighbours."""

ERROR_IN_EPS = 6.0
"""Possible error of a squared distance from the product, over eps times norm and distance."""

TOLERANCE = 3e-6
"""Largest possible relative error of a squared distance that is left as the product gave it."""

SPREAD = 16.0
"""... and, over this, of the spread of a point's distances."""

ACCEPTED = 2e-8
"""Largest predicted error in the mean of a point's spread; above it points are computed again."""

UNPROVEN = 1 / 16
"""Largest share of points whose neighbours have to be searched for among all points."""

LARGEST = 1e15
"""Largest trace of a Gram matrix in float32, and over one the smallest."""

_ERROR = ERROR_IN_EPS * float(np.finfo(np.float32).eps)


class Cloud(NamedTuple):
    """One finite cloud of distinct points.

    Attributes:
        points: (n, D) float32.
        times: (n,) int64, place of each point in its context, ascending.
        window: neighbours at most this many places away in time are left out.
        heavy: (n,) bool, points that are added last (see `terse.dimension.sinks`).
        n_heavy: how many these are.
        centre: (D,) float64, the mean of the others.
    """

    points: np.ndarray
    times: np.ndarray
    window: int
    heavy: np.ndarray
    n_heavy: int
    centre: np.ndarray


@dataclass(frozen=True)
class FastNeighbours:
    """What the pass found for one cloud of n points.

    Attributes:
        squared, index: (n, 21) float64 and int64: squared distances to the nearest points, and
            their positions, without heavy points; undefined for these.
        linear: the linear dimensions without heavy points and with them, or None.
        repaired: whether distances were in doubt and computed again.
    """

    squared: np.ndarray
    index: np.ndarray
    linear: tuple[Linear, Linear] | None
    repaired: bool


def fast_pass(cloud: Cloud, participation: bool, space: Workspace) -> FastNeighbours | None:
    """Return the nearest of the points that are not heavy, or None where float32 is not enough.

    Args:
        cloud: of which more than 21 points are not heavy, twice the window taken off.
        participation: whether the linear dimensions are asked for.
        space: buffers to use again.
    """
    n = len(cloud.points)
    rest, outliers = _centred(cloud, space)
    product = _products(rest, space)
    norms = product.diagonal().copy()
    k = min(N_CANDIDATES, n - cloud.n_heavy - 1 - 2 * cloud.window)
    as_columns = np.where(cloud.heavy, kernels.FAR, norms) if cloud.n_heavy else norms
    apart = np.empty((0, n), np.float32) if outliers is None else outliers.values
    found, places = np.empty((n, k), np.float32), np.empty((n, k), np.int32)
    timed = (cloud.times, cloud.window)
    energy = kernels.nearest(product, as_columns, apart, *timed, k, found, places)
    squared, index = np.empty((n, N_NEIGHBOURS)), np.zeros((n, N_NEIGHBOURS), np.int64)
    limits = (_ERROR, TOLERANCE, SPREAD, ACCEPTED)
    arguments = (cloud.points, norms, cloud.heavy, found, places, N_NEIGHBOURS, *limits)
    unproven, n_doubts = kernels.settle(*arguments, squared, index)
    n_unproven = np.count_nonzero(unproven)
    trace, values = float(norms.sum(dtype=np.float64)), None
    if outliers is not None:
        values = _about_mean(outliers.values, cloud)
        trace += float(np.vdot(values, values))
    if n_unproven > max(8, UNPROVEN * n) or not 1 / LARGEST < trace < LARGEST:
        return None
    if n_unproven:
        kernels.search(cloud.points, unproven, cloud.heavy, *timed, squared, index)
    linear = None
    if participation:
        if outliers is not None and values is not None:
            energy += _put_back(rest, outliers.dims, values)
        heavy = cloud.points[cloud.heavy].astype(np.float64) - cloud.centre
        linear = both_linear(rest, Moments(trace, energy), heavy)
    return FastNeighbours(squared, index, linear, bool(n_doubts))


class _Outliers(NamedTuple):
    """Dimensions (8,) that dwarf all others, and the coordinates (8, n) float32 in them."""

    dims: np.ndarray
    values: np.ndarray


def _centred(cloud: Cloud, space: Workspace) -> tuple[np.ndarray, _Outliers | None]:
    """Return the points about their centre, heavy ones and outlier dimensions zero, and these.

    The next cloud will use the memory of the former.
    """
    points = cloud.points
    n, D = points.shape
    rest = space.take_array("rest", (n, D))
    share, dims = np.empty(D, np.float32), np.empty(min(N_OUTLIERS, D), np.int64)
    centre = cloud.centre.astype(np.float32)
    held = kernels.subtract(points, centre, cloud.heavy, rest, share, dims)
    if held <= OUTLIER_SHARE * (n - cloud.n_heavy):
        return rest, None
    rest[:, dims] = 0
    return rest, _Outliers(dims, np.ascontiguousarray(points[:, dims].T))


def _products(rest: np.ndarray, space: Workspace) -> np.ndarray:
    """Return inner products (n, n) of points (n, D) float32; only the upper half is valid."""
    n = len(rest)
    room = space.take_array("product", (n, n))
    # BLAS counts by columns: its lower half is the upper half by rows
    done = blas.ssyrk(  # pyright: ignore[reportAttributeAccessIssue]: made when SciPy is loaded
        1.0, rest.T, c=room.T, trans=1, lower=1, overwrite_c=1
    )
    return done.T


def _about_mean(outliers: np.ndarray, cloud: Cloud) -> np.ndarray:
    """Return coordinates (8, n) float64 about their mean, heavy points left out and zero."""
    values = outliers.astype(np.float64)
    values -= values[:, ~cloud.heavy].mean(1, keepdims=True)
    values[:, cloud.heavy] = 0
    return values


def _put_back(rest: np.ndarray, dims: np.ndarray, values: np.ndarray) -> float:
    """Put coordinates (8, n) in some dimensions back into centred points (n, D), zero there.

    Returns what they add to the squared norm of the Gram matrix, or of the covariance, which has
    the same spectrum.
    """
    narrow = values.T.astype(np.float32)  # (n, 8)
    cross, own = rest.T @ narrow, values @ values.T
    rest[:, dims] = narrow
    return 2 * float(np.square(cross, dtype=np.float64).sum()) + float(np.vdot(own, own))


def n_candidates(heavy: Tensor, window: int) -> int:
    """Return how many candidates every point of clouds with heavy points (b, n) can have."""
    return min(N_CANDIDATES, heavy.shape[1] - int(heavy.sum(1).max()) - 1 - 2 * window)
