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

_ERROR = ERROR_IN_EPS * float(np.finfo(np.float32).eps)

UNPROVEN = 1 / 16
"""Largest share of points whose neighbours have to be searched for among all points."""


class FastResult(NamedTuple):
    """What the pass found for one cloud of n points.

    Attributes:
        squared: (n, 21) float64 squared distances to the nearest points; undefined for heavy ones.
        nearest: (n, 21) int64, the positions of these points.
        norms: (n,) float32 squared norms of what the product was taken of.
        energy: sum of the squares of all products.
        unproven: (n,) bool, points whose neighbours have to be searched for among all points.
        settled: whether those are few; if not, the cloud has to be computed in float64.
        repaired: whether distances were in doubt and computed again.
    """

    squared: Tensor
    nearest: Tensor
    norms: Tensor
    energy: float
    unproven: Tensor
    settled: bool
    repaired: bool


def centre_fast(raw: Tensor, heavy: Tensor, centre: Tensor | None, space: Workspace) -> Centred:
    """Centre one cloud (1, n, D) float32 about the mean of the points that are not heavy."""
    n, D = raw.shape[1:]
    points, left_out = raw[0].numpy(), heavy[0].numpy()
    if centre is None:
        offset = torch.empty(D, dtype=torch.float64)
        kernels.mean_of(points, left_out, offset.numpy())
    else:
        offset = centre[0]
    rest = space.take("rest", (1, n, D), torch.float32, raw)
    share = np.empty(D, np.float32)
    kernels.subtract(points, offset.float().numpy(), left_out, rest[0].numpy(), share)
    norms = rest.new_empty(0)  # they are the diagonal of the product
    largest = np.argpartition(share, -N_OUTLIERS)[-N_OUTLIERS:] if D > N_OUTLIERS else np.arange(D)
    if share[largest].sum() <= OUTLIER_SHARE * (n - left_out.sum()):
        return Centred(rest, norms, offset[None], None, None)
    dims = torch.from_numpy(largest)
    rest[:, :, dims] = 0
    return Centred(rest, norms, offset[None], raw[:, :, dims], dims[None])


def _products(rest: Tensor, space: Workspace) -> np.ndarray:
    """Return inner products (n, n) of points (n, D) float32; only the upper half is valid."""
    n = len(rest)
    room = space.take("product", (n, n), torch.float32, rest).numpy()
    # BLAS counts by columns: its lower half is the upper half by rows
    done = blas.ssyrk(  # pyright: ignore[reportAttributeAccessIssue]: made when SciPy is loaded
        1.0, rest.numpy().T, c=room.T, trans=1, lower=1, overwrite_c=1
    )
    return done.T


def fast_pass(
    raw: Tensor,
    times: Tensor,
    window: int,
    heavy: Tensor,
    centre: Tensor | None,
    n_neighbours: int,
    space: Workspace,
) -> tuple[FastResult, Centred]:
    """Find the nearest points in one cloud (1, n, D) float32, among those that are not heavy."""
    centred = centre_fast(raw, heavy, centre, space)
    product = _products(centred.rest[0], space)
    norms, n, left_out = product.diagonal().copy(), len(product), heavy[0].numpy()
    k = min(N_CANDIDATES, n - int(left_out.sum()) - 1 - 2 * window)
    outliers = np.empty((0, n), np.float32)
    if centred.outliers is not None:
        outliers = centred.outliers[0].T.contiguous().numpy()
    as_columns = np.where(left_out, kernels.FAR, norms)
    found, places = np.empty((n, k), np.float32), np.empty((n, k), np.int32)
    energy = kernels.nearest(product, as_columns, outliers, times.numpy(), window, k, found, places)
    squared, index = np.empty((n, n_neighbours)), np.zeros((n, n_neighbours), np.int64)
    points = raw[0].numpy()
    arguments = (points, norms, left_out, found, places, n_neighbours)
    unproven, n_doubts = kernels.settle(
        *arguments, _ERROR, TOLERANCE, SPREAD, ACCEPTED, squared, index
    )
    settled = bool(unproven.sum() <= max(8, UNPROVEN * n))
    result = FastResult(
        torch.from_numpy(squared),
        torch.from_numpy(index),
        torch.from_numpy(norms),
        float(energy),
        torch.from_numpy(unproven),
        settled,
        n_doubts > 0,
    )
    return result, centred


def n_candidates(heavy: Tensor, window: int) -> int:
    """Return how many candidates every point of clouds with heavy points (b, n) can have."""
    return min(N_CANDIDATES, heavy.shape[1] - int(heavy.sum(1).max()) - 1 - 2 * window)
