"""The neighbour pass: the 21 nearest other points of every point, and proof that they are.

Distances come from a matrix product of centred points. Where its rounding error could matter, the
pair, the row or the whole cloud is computed again, by direct differences or in float64.
"""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from terse.dimension.gram import Centred, Workspace, centre, gram, multiply, to_squared_distances
from terse.dimension.selection import smallest, smallest_in_columns
from terse.dimension.threads import map_on_threads, one_thread

N_NEIGHBOURS = 21
"""Neighbours that the estimators see: r_1 to r_21."""

PAIR_TOLERANCE = 6e-6
"""Largest relative error of a squared distance that is left as the product gave it."""

TILES_ABOVE = 4096
"""Points above which a cloud's distances are not all held at once."""

_TILE = 2048
_ERROR_GROWTH = 3.0
_SPREAD_TOLERANCE = 1e-4
_TYPICAL_ERROR = 2.0
_ACCEPTED = 2e-6
_ACCEPTED_WHERE_CHEAP = 2.5e-7
_CHEAP = 512
_CUT = 32
_PAIRS_PER_POINT = 4
_PAIR_ELEMENTS = 1 << 16
_GATHER_ELEMENTS = 1 << 21
_LARGEST = {torch.float32: 1e15, torch.float64: 1e150}


@dataclass(frozen=True)
class Neighbours:
    """What the neighbour pass found.

    Attributes:
        squared: (b, n, 21) float64, ascending squared distances to the nearest other points.
        index: (b, n, 21) int64, their positions in the cloud.
        participation: (b,) float64, (sum lambda)^2 / sum lambda^2 of the covariance
            (not finite where it is not wanted).
        doubtful: (b,) bool, the cloud is not finite or has to be done again in float64.
        repaired: (b,) bool, some distances were computed again by differences.
    """

    squared: Tensor
    index: Tensor
    participation: Tensor
    doubtful: Tensor
    repaired: Tensor


@dataclass(frozen=True)
class Clouds:
    """Finite, distinct points (b, n, D) of any floating type, and what bounds their neighbours.

    Attributes:
        raw: (b, n, D) the points.
        times: (n,) int64, place of each point in its context.
        theiler_window: neighbours at most this many places away in time are left out (0: none).
        participation: whether the participation ratio is wanted.
    """

    raw: Tensor
    times: Tensor
    theiler_window: int = 0
    participation: bool = True


def neighbour_pass(clouds: Clouds, dtype: torch.dtype, space: Workspace) -> Neighbours:
    """Return the nearest neighbours in every cloud; large ones by tiles.

    Args:
        clouds: b clouds of n >= 22 points.
        dtype: float32 or float64, in which the product is taken.
        space: buffers to use again.
    """
    together = [clouds.raw] if clouds.raw.is_cuda else clouds.raw.split(1)
    found = [_find(replace(clouds, raw=raw), dtype, space) for raw in together]
    return _settle(clouds, _Found(*map(torch.cat, zip(*found, strict=True))), dtype)


class _Found(NamedTuple):
    """What the product says, before its errors are judged.

    Attributes:
        squared: (b, n, 21) float64.
        nearest: (b, n, 21) int64, whose they are.
        norms: (b, n) squared norms outside the outlier dimensions.
        trace: (b,) float64, trace of the Gram matrix with all dimensions.
        energy: (b,) float64, its squared Frobenius norm.
    """

    squared: Tensor
    nearest: Tensor
    norms: Tensor
    trace: Tensor
    energy: Tensor


def _find(clouds: Clouds, dtype: torch.dtype, space: Workspace) -> _Found:
    """Take the products of clouds and select, with the buffers of one pass."""
    if clouds.raw.shape[1] <= TILES_ABOVE:
        centred = centre(clouds.raw, dtype, space)
        found = _whole(clouds, centred, space)
    else:
        with one_thread():
            centred = centre(clouds.raw, dtype, space)
        found = _by_tiles(clouds, centred)
    trace, energy = _with_outliers(centred, found.trace, found.energy)
    return found._replace(trace=trace, energy=energy)


def _whole(clouds: Clouds, centred: Centred, space: Workspace) -> _Found:
    """Hold all distances of a cloud at once; compute one half of them."""
    product = gram(centred.rest, space)  # (b, n, n)
    b, n, _ = product.shape
    every = slice(0, n)
    norms = product.diagonal(dim1=1, dim2=2).clone()  # (b, n)
    energy = _square_norm(product) if clouds.participation else norms.new_zeros(b).double()
    squared = to_squared_distances(product, None, norms, centred.sides(every, every))
    exclude(squared, clouds, every, every)
    found, index = smallest(squared, N_NEIGHBOURS)  # (b, n, 21)
    exact = norms.double()
    return _Found(found.double() + exact.unsqueeze(-1), index, norms, exact.sum(1), energy)


def _by_tiles(clouds: Clouds, centred: Centred) -> _Found:
    """Hold a few tiles of distances at a time; each serves its rows and, mirrored, its columns."""
    b, n, _ = centred.rest.shape
    ranges = [slice(start, min(start + _TILE, n)) for start in range(0, n, _TILE)]
    tiles = [(rows, columns) for at, rows in enumerate(ranges) for columns in ranges[at:]]

    def one(tile: tuple[slice, slice], space: Workspace) -> _Tile:
        return _work_on_tile(clouds, centred, tile, space)

    best = _Best(b, n, centred.rest)
    energy = centred.norms.new_zeros(b, dtype=torch.float64)
    done = map_on_threads(one, tiles, centred.rest.device)
    for (rows, columns), tile in zip(tiles, done, strict=True):
        best.offer(rows, columns.start, tile.of_rows)
        if tile.of_columns is not None:
            best.offer(columns, rows.start, tile.of_columns)
        energy += tile.energy
    trace = centred.norms.double().sum(1)
    return _Found(best.squared.double(), best.index, centred.norms, trace, energy)


class _Tile(NamedTuple):
    """The nearest in one tile: values and positions (b, <= 2048, <= 21); energy (b,) of it."""

    of_rows: tuple[Tensor, Tensor]
    of_columns: tuple[Tensor, Tensor] | None
    energy: Tensor


def _work_on_tile(
    clouds: Clouds,
    centred: Centred,
    tile: tuple[slice, slice],
    space: Workspace,
) -> _Tile:
    """Compute the distances (b, r, c) between two ranges of points and select on both sides."""
    rows, columns = tile
    rest, norms = centred.rest, centred.norms
    shape = (rest.shape[0], rows.stop - rows.start, columns.stop - columns.start)
    squared = space.take("tile", shape, rest.dtype, rest)
    multiply(rest[:, rows], rest[:, columns], out=squared)
    energy = _square_norm(squared) if clouds.participation else norms.new_zeros(1).double()
    to_squared_distances(squared, norms[:, rows], norms[:, columns], centred.sides(rows, columns))
    exclude(squared, clouds, rows, columns)
    of_rows = smallest(squared, min(N_NEIGHBOURS, shape[2]))
    if rows == columns:
        return _Tile(of_rows, None, energy)
    return _Tile(of_rows, smallest_in_columns(squared, min(N_NEIGHBOURS, shape[1])), 2 * energy)


class _Best:
    """The nearest neighbours seen so far, (b, n, 21)."""

    def __init__(self, b: int, n: int, like: Tensor) -> None:
        shape = (b, n, N_NEIGHBOURS)
        self.squared = torch.full(shape, torch.inf, dtype=like.dtype, device=like.device)
        self.index = torch.zeros(shape, dtype=torch.int64, device=like.device)

    def offer(self, points: slice, first: int, found: tuple[Tensor, Tensor]) -> None:
        """Take in the nearest (b, p, <= 21) of a range of points that begins at `first`."""
        squared, index = found
        both = torch.cat([self.squared[:, points], squared], -1)  # (b, p, 42)
        indices = torch.cat([self.index[:, points], index + first], -1)
        self.squared[:, points], place = both.topk(N_NEIGHBOURS, largest=False, sorted=True)
        self.index[:, points] = indices.gather(-1, place)


def _square_norm(product: Tensor) -> Tensor:
    """Return squared Frobenius norms (b,) of (b, r, c)."""
    return torch.linalg.vector_norm(product, dim=2).double().square().sum(1)


def exclude(squared: Tensor, clouds: Clouds, rows: slice, columns: slice) -> None:
    """Make each point, and its neighbours in time, infinitely far: squared is (b, r, c)."""
    gap = columns.start - rows.start
    if clouds.theiler_window == 0:
        if gap < squared.shape[1]:
            squared.diagonal(-gap, 1, 2).fill_(torch.inf)
        return
    apart = clouds.times[rows, None] - clouds.times[columns]
    squared.masked_fill_(apart.abs() <= clouds.theiler_window, torch.inf)


def _with_outliers(centred: Centred, trace: Tensor, energy: Tensor) -> tuple[Tensor, Tensor]:
    """Add the outlier dimensions to the trace (b,) and squared norm (b,) of the Gram matrices.

    They equal those of n - 1 times the covariance, which has the same spectrum.
    """
    if centred.outliers is None:
        return trace, energy
    outliers = centred.outliers.double()
    outliers = outliers - outliers.mean(1, keepdim=True)  # (b, n, 8)
    cross = centred.rest.mT @ outliers.to(centred.rest.dtype)  # (b, D, 8)
    energy = energy + 2 * cross.double().square().sum((1, 2))
    energy = energy + (outliers.mT @ outliers).square().sum((1, 2))
    return trace + outliers.square().sum((1, 2)), energy


def _settle(clouds: Clouds, found: _Found, dtype: torch.dtype) -> Neighbours:
    """Judge the errors of the product, compute again what is in doubt, and order the result."""
    squared, index = found.squared, found.nearest
    pairs, rows = _doubts(squared, found.norms.double(), dtype)
    n = squared.shape[1]
    limit = _LARGEST[dtype]
    doubtful = ~((found.trace < limit) & (found.trace > 1 / limit))  # true for NaN, too
    if dtype == torch.float32:
        doubtful |= (pairs.sum((1, 2)) > _PAIRS_PER_POINT * n) | (rows.sum(1) > max(2, n // 256))
        accepted = _ACCEPTED_WHERE_CHEAP if n <= _CHEAP else _ACCEPTED
        doubtful |= _predicted_error(squared, found.norms.double()) > accepted
        pairs[..., :2] |= _at_the_cut(squared).unsqueeze(-1)
    pairs, rows = pairs & ~doubtful[:, None, None], rows & ~doubtful[:, None]
    repaired = (pairs.sum((1, 2)) > 2 * _CUT) | rows.any(1)  # the cut is part of the plain path
    touched = pairs.any(2) | rows  # (b, n)
    if bool(touched.any()):
        _repair_pairs(clouds.raw, squared, index, pairs, dtype)
        _repair_rows(clouds, squared, index, rows)
        squared[touched], order = squared[touched].sort(-1)
        index[touched] = index[touched].gather(-1, order)
    participation = found.trace.square() / found.energy
    return Neighbours(squared, index, participation, doubtful, repaired)


def _doubts(squared: Tensor, norms: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return which pairs (b, n, 21) and which whole rows (b, n) the product does not settle.

    A pair is in doubt where the rounding error is no longer small against its squared distance. A
    row is where that holds for its farthest neighbour, since then the set of neighbours itself is
    open; in float32 also where all its distances are so alike (a sink's are) that the error is
    not small against their spread.
    """
    finfo = torch.finfo(dtype)
    error = _ERROR_GROWTH * finfo.eps * (norms + squared[..., -1])  # (b, n)
    near = squared.clamp_min(finfo.tiny)
    relative = error.unsqueeze(-1) / near
    logs = near[..., :20].log()
    spread = 20 * logs[..., -1] - logs.sum(-1)  # (b, n)
    alike = relative[..., 19] > _SPREAD_TOLERANCE * spread
    rows = relative[..., -1] > PAIR_TOLERANCE
    rows &= squared[..., -1].isfinite()
    pairs = relative > PAIR_TOLERANCE
    if dtype == torch.float32:
        rows |= alike
    else:
        pairs |= alike.unsqueeze(-1)
    return pairs & ~rows.unsqueeze(-1), rows


def _predicted_error(squared: Tensor, norms: Tensor) -> Tensor:
    """Return the relative error (b,) that float32 products leave in the mean of log(r_2 / r_1).

    The larger the dimension, the smaller these logarithms. The prediction is cautious: above a
    dimension of 100 it is two to three times what is seen, since unrelated products cancel.
    """
    eps = torch.finfo(torch.float32).eps
    relative = _TYPICAL_ERROR * eps * norms / squared[..., 0]  # (b, n)
    mean_log = (squared[..., 1] / squared[..., 0]).log().mean(1) / 2  # (b,) about 1 / d
    return relative.square().mean(1).sqrt() / (mean_log * math.sqrt(squared.shape[1]))


def _at_the_cut(squared: Tensor) -> Tensor:
    """Return the few points (b, n) whose r_2 / r_1 ranks around 90 percent.

    `twoNN_mle` gives the ratio at that rank the weight of all that are larger.
    """
    n = squared.shape[1]
    order = (squared[..., 1] / squared[..., 0]).argsort(-1)
    middle = int(0.9 * n)
    near = order[:, max(0, middle - _CUT // 2) : middle + _CUT // 2]
    return torch.zeros_like(order, dtype=torch.bool).scatter_(1, near, True)


def _repair_pairs(
    raw: Tensor, squared: Tensor, index: Tensor, pairs: Tensor, dtype: torch.dtype
) -> None:
    """Replace the marked squared distances by sums of squared differences, in place."""
    b, n, D = raw.shape
    cloud, row, rank = pairs.nonzero(as_tuple=True)
    points = raw.reshape(b * n, D)
    left, right = cloud * n + row, cloud * n + index[cloud, row, rank]
    step = max(1, _PAIR_ELEMENTS // D)
    exact = [
        (points.index_select(0, one).to(dtype) - points.index_select(0, other).to(dtype))
        .square()
        .sum(-1)
        for one, other in zip(left.split(step), right.split(step), strict=True)
    ]
    if exact:
        squared[cloud, row, rank] = torch.cat(exact).double()


def _repair_rows(clouds: Clouds, squared: Tensor, index: Tensor, rows: Tensor) -> None:
    """Find the neighbours of the marked rows among all points, by differences in float64."""
    raw = clouds.raw
    step = max(1, _GATHER_ELEMENTS // raw.shape[-1])
    for cloud, row in rows.nonzero().tolist():
        here = raw[cloud, row].double()
        parts = [(part.double() - here).square().sum(-1) for part in raw[cloud].split(step)]
        all_squared = torch.cat(parts)[None, None]  # (1, 1, n)
        exclude(all_squared, clouds, slice(row, row + 1), slice(0, len(raw[cloud])))
        squared[cloud, row], index[cloud, row] = (
            got[0, 0] for got in smallest(all_squared, squared.shape[-1])
        )
