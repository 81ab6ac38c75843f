"""The neighbour pass of one cloud on a CPU: a float32 product, compiled loops around it."""

from typing import NamedTuple

import numpy as np
import torch
from scipy.linalg import blas
from torch import Tensor

from terse.dimension import kernels
from terse.dimension.gram import N_OUTLIERS, OUTLIER_SHARE, Centred, Workspace

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

_ON_CPU = torch.empty(0)  # buffers lie where it does
_ERROR = ERROR_IN_EPS * float(np.finfo(np.float32).eps)

UNPROVEN = 1 / 16
"""Largest share of points whose neighbours have to be searched for among all points."""


class FastResult(NamedTuple):
    """What the pass found for one cloud of n points.

    Attributes:
        centred: the points about their centre.
        trace: sum of the squared norms of what the product was taken of.
        energy: sum of the squares of all products.
        unproven: (n,) bool, points whose neighbours have to be searched for among all points.
        settled: whether those are few; if not, the cloud has to be computed in float64.
        repaired: whether distances were in doubt and computed again.
    """

    centred: Centred
    trace: float
    energy: float
    unproven: np.ndarray
    settled: bool
    repaired: bool


def centre_fast(
    points: np.ndarray, left_out: np.ndarray, offset: np.ndarray, space: Workspace
) -> tuple[np.ndarray, np.ndarray | None]:
    """Centre points (n, D) float32, heavy ones left out, about an offset (D,) float64.

    Returns the centred points, whose memory the next cloud will use, and the outlier dimensions
    (8,), zero there, or None.
    """
    n, D = points.shape
    rest = space.take("rest", (n, D), torch.float32, _ON_CPU).numpy()
    share, dims = np.empty(D, np.float32), np.empty(min(N_OUTLIERS, D), np.int64)
    held = kernels.subtract(points, offset.astype(np.float32), left_out, rest, share, dims)
    if held <= OUTLIER_SHARE * (n - np.count_nonzero(left_out)):
        return rest, None
    rest[:, dims] = 0
    return rest, dims


def _products(rest: np.ndarray, space: Workspace) -> np.ndarray:
    """Return inner products (n, n) of points (n, D) float32; only the upper half is valid."""
    n = len(rest)
    room = space.take("product", (n, n), torch.float32, _ON_CPU).numpy()
    # BLAS counts by columns: its lower half is the upper half by rows
    done = blas.ssyrk(  # pyright: ignore[reportAttributeAccessIssue]: made when SciPy is loaded
        1.0, rest.T, c=room.T, trans=1, lower=1, overwrite_c=1
    )
    return done.T


def fast_pass(
    points: np.ndarray,
    times: np.ndarray,
    window: int,
    left_out: np.ndarray,
    offset: np.ndarray,
    space: Workspace,
    squared: np.ndarray,
    index: np.ndarray,
) -> FastResult:
    """Find the nearest points in one cloud, among those that are not heavy.

    Args:
        points: (n, D) float32.
        times, window: see `Clouds`.
        left_out: (n,) bool, the heavy points.
        offset: (D,) float64, the mean of the others.
        space: buffers to use again.
        squared, index: (n, 21) float64 and int64: squared distances to the nearest points and
            their positions; written, undefined for heavy points.
    """
    n = len(points)
    rest, dims = centre_fast(points, left_out, offset, space)
    product = _products(rest, space)
    norms = product.diagonal().copy()
    k = min(N_CANDIDATES, n - np.count_nonzero(left_out) - 1 - 2 * window)
    outliers = np.empty((0, n), np.float32)
    if dims is not None:
        outliers = np.ascontiguousarray(points[:, dims].T)
    as_columns = np.where(left_out, kernels.FAR, norms)
    found, places = np.empty((n, k), np.float32), np.empty((n, k), np.int32)
    energy = kernels.nearest(product, as_columns, outliers, times, window, k, found, places)
    arguments = (points, norms, left_out, found, places, squared.shape[1])
    limits = (_ERROR, TOLERANCE, SPREAD, ACCEPTED)
    unproven, n_doubts = kernels.settle(*arguments, *limits, squared, index)
    settled = bool(np.count_nonzero(unproven) <= max(8, UNPROVEN * n))
    trace, centred = float(norms.sum(dtype=np.float64)), _as_tensors(rest, offset, points, dims)
    return FastResult(centred, trace, energy, unproven, settled, bool(n_doubts))


def _as_tensors(
    rest: np.ndarray, offset: np.ndarray, points: np.ndarray, dims: np.ndarray | None
) -> Centred:
    """Return one centred cloud as a batch; its norms are the diagonal of the product."""
    outliers = None if dims is None else torch.from_numpy(points[None, :, dims])
    chosen = None if dims is None else torch.from_numpy(dims[None])
    centred, about = torch.from_numpy(rest[None]), torch.from_numpy(offset[None])
    return Centred(centred, centred.new_empty(0), about, outliers, chosen)


def n_candidates(heavy: Tensor, window: int) -> int:
    """Return how many candidates every point of clouds with heavy points (b, n) can have."""
    return min(N_CANDIDATES, heavy.shape[1] - int(heavy.sum(1).max()) - 1 - 2 * window)
