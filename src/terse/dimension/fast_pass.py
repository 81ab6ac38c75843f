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
    share = torch.empty(D)
    kernels.subtract(points, offset.float().numpy(), left_out, rest[0].numpy(), share.numpy())
    largest = share.topk(min(N_OUTLIERS, D))
    norms = share[:0]  # they are the diagonal of the product
    if float(largest.values.sum()) <= OUTLIER_SHARE * (n - int(heavy.sum())):
        return Centred(rest, norms, offset[None], None, None)
    rest[:, :, largest.indices] = 0
    return Centred(rest, norms, offset[None], raw[:, :, largest.indices], largest.indices[None])


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
    norms = torch.from_numpy(product.diagonal().copy())
    n, left_out = len(norms), heavy[0].numpy()
    k = n_candidates(heavy, window)
    outliers = centred.outliers[0].T.contiguous().numpy() if centred.outliers is not None else None
    found, places = np.empty((n, k), np.float32), np.empty((n, k), np.int32)
    energy = kernels.nearest(
        product,
        norms.masked_fill(heavy[0], float(kernels.FAR)).numpy(),
        np.empty((0, n), np.float32) if outliers is None else outliers,
        times.numpy(),
        window,
        k,
        found,
        places,
    )
    squared = torch.empty((n, n_neighbours), dtype=torch.float64)
    index = torch.zeros((n, n_neighbours), dtype=torch.int64)
    error = ERROR_IN_EPS * float(np.finfo(np.float32).eps)
    points, results = raw[0].numpy(), (squared.numpy(), index.numpy())
    arguments = (points, norms.numpy(), left_out, found, places, n_neighbours)
    unproven, n_doubts = kernels.settle(*arguments, error, TOLERANCE, SPREAD, ACCEPTED, *results)
    rows = torch.from_numpy(unproven)
    settled = int(rows.sum()) <= max(8, UNPROVEN * n)
    return FastResult(squared, index, norms, float(energy), rows, settled, bool(n_doubts)), centred


def n_candidates(heavy: Tensor, window: int) -> int:
    """Return how many candidates every point of clouds with heavy points (b, n) can have."""
    return min(N_CANDIDATES, heavy.shape[1] - int(heavy.sum(1).max()) - 1 - 2 * window)
