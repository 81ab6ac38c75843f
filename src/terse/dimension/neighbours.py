"""The neighbour pass: the 21 nearest other points of every point, proven to be the nearest.

Distances come from a matrix product of centred points. Where its rounding error could matter, the
pair, the row or the whole cloud is computed again, by direct differences or in float64.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from terse.dimension import kernels
from terse.dimension.covariance import Linear, Moments, linear, linear_with
from terse.dimension.fast_pass import (
    ACCEPTED,
    ERROR_IN_EPS,
    LARGEST,
    N_NEIGHBOURS,
    SPREAD,
    TOLERANCE,
    UNPROVEN,
    n_candidates,
)
from terse.dimension.gram import (
    Centred,
    Workspace,
    centre,
    complete,
    gram,
    multiply,
    to_squared_distances,
)
from terse.dimension.selection import smallest, smallest_in_columns
from terse.dimension.threads import map_on_threads, one_thread

TILES_ABOVE = 4096
"""Points above which a cloud's distances are not all held at once."""

_TILE = 2048
_PAIR_ELEMENTS = 1 << 16
_GPU_PAIR_ELEMENTS = 1 << 26
_GATHER_ELEMENTS = 1 << 21
_LARGEST = {torch.float32: LARGEST, torch.float64: 1e150}


@dataclass(frozen=True)
class Neighbours:
    """What the neighbour pass found.

    Attributes:
        squared: (b, n, 21) float64, ascending squared distances to the nearest other points.
        index: (b, n, 21) int64, their positions in the cloud.
        linear: the linear dimensions of each cloud without and with its heavy points, None where
            they are not asked for.
        doubtful: (b,) bool, the cloud is not finite or has to be done again in float64.
        repaired: (b,) bool, some distances were in doubt and computed again by differences.

    All but `linear` leave the heavy points out; the rows of these are meaningless.
    """

    squared: Tensor
    index: Tensor
    linear: list[tuple[Linear, Linear] | None]
    doubtful: Tensor
    repaired: Tensor


@dataclass(frozen=True)
class Clouds:
    """Finite, distinct points (b, n, D) of any floating type, and what bounds their neighbours.

    Attributes:
        raw: (b, n, D) the points.
        times: (n,) int64, place of each point in its context.
        heavy: (b, n) bool, points that are added last (see `terse.dimension.heavy`).
        theiler_window: neighbours at most this many places away in time are left out (0: none).
        participation: whether the participation ratio is asked for.
    """

    raw: Tensor
    times: Tensor
    heavy: Tensor
    theiler_window: int = 0
    participation: bool = True

    def one(self, cloud: int) -> "Clouds":
        """Return one of the clouds, as a batch of one."""
        part = slice(cloud, cloud + 1)
        return replace(self, raw=self.raw[part], heavy=self.heavy[part])

    def one_by_one(self) -> list["Clouds"]:
        """Return all of them, each as a batch of one."""
        return [self.one(cloud) for cloud in range(len(self.raw))]


def neighbour_pass(clouds: Clouds, dtype: torch.dtype, space: Workspace) -> Neighbours:
    """Return the nearest neighbours in every cloud; large ones by tiles.

    Args:
        clouds: b clouds of n >= 22 points.
        dtype: float32 or float64, in which the product is taken.
        space: buffers to use again.
    """
    together = [clouds] if clouds.raw.is_cuda else clouds.one_by_one()
    parts = [_pass(some, dtype, space) for some in together]
    if len(parts) == 1:
        return parts[0]
    linear = [one for part in parts for one in part.linear]
    tensors = [torch.cat([getattr(part, key) for part in parts]) for key in _TENSORS]
    squared, index, doubtful, repaired = tensors
    return Neighbours(squared, index, linear, doubtful, repaired)


_TENSORS = ("squared", "index", "doubtful", "repaired")


def _pass(clouds: Clouds, dtype: torch.dtype, space: Workspace) -> Neighbours:
    found, centred = _find(clouds, dtype, space)
    linear = _linear(clouds, centred, found.trace.tolist(), found.energy.tolist())
    return _settle(clouds, found, linear, dtype)


class _Found(NamedTuple):
    """What the product gives, before its errors are judged.

    Attributes:
        squared: (b, n, k) float64, of somewhat more candidates than are needed.
        nearest: (b, n, k) int64, the positions of these candidates.
        norms: (b, n) squared norms outside the outlier dimensions.
        trace: (b,) float64, trace of the Gram matrix with all dimensions.
        energy: (b,) float64, its squared Frobenius norm.
    """

    squared: Tensor
    nearest: Tensor
    norms: Tensor
    trace: Tensor
    energy: Tensor


def _find(clouds: Clouds, dtype: torch.dtype, space: Workspace) -> tuple[_Found, Centred]:
    """Take the products of clouds and select, with the buffers of one pass."""
    if clouds.raw.shape[1] <= TILES_ABOVE:
        centred = centre(clouds.raw, clouds.heavy, dtype, space)
        found = _whole(clouds, centred, space)
    else:
        with one_thread():
            centred = centre(clouds.raw, clouds.heavy, dtype, space)
        found = _by_tiles(clouds, centred)
    trace, energy = _with_outliers(clouds, centred, found.trace, found.energy)
    return found._replace(trace=trace, energy=energy), centred


def _energy(clouds: Clouds, product: Tensor) -> Tensor:
    """Return the squared Frobenius norms (b,) of (b, r, c); zero if they are not needed."""
    if not clouds.participation:
        return torch.zeros(len(product), dtype=torch.float64, device=product.device)
    return _square_norm(product)


def _linear(
    clouds: Clouds, centred: Centred, trace: list[float], energy: list[float]
) -> list[tuple[Linear, Linear] | None]:
    """Return the linear dimensions of each cloud without and with its heavy points."""
    if not clouds.participation:
        return [None] * len(clouds.raw)
    found: list[tuple[Linear, Linear] | None] = []
    for cloud, moments in enumerate(zip(trace, energy, strict=True)):
        points, mask = complete(centred, clouds.heavy, cloud), clouds.heavy[cloud]
        without = linear(points, Moments(*moments))
        both = (without, without)
        if bool(mask.any()):
            heavy = clouds.raw[cloud][mask].double() - centred.offset[cloud].double()
            both = (without, linear_with(points, Moments(*moments), heavy, len(mask)))
        found.append(both)
    return found


def _whole(clouds: Clouds, centred: Centred, space: Workspace) -> _Found:
    """Hold all distances of a cloud at once; compute half of them."""
    product = gram(centred.rest, space)  # (b, n, n)
    n = product.shape[1]
    every = slice(0, n)
    norms = product.diagonal(dim1=1, dim2=2).clone()  # (b, n)
    energy = _energy(clouds, product)
    squared = to_squared_distances(product, None, norms, centred.sides(every, every))
    exclude(squared, clouds, every, every)
    found, index = smallest(squared, _n_candidates(clouds))  # (b, n, k)
    exact = norms.double()
    return _Found(found.double() + exact.unsqueeze(-1), index, norms, exact.sum(1), energy)


def _by_tiles(clouds: Clouds, centred: Centred) -> _Found:
    """Hold a few tiles of distances at a time; each serves its rows and, mirrored, its columns."""
    b, n, _ = centred.rest.shape
    ranges = [slice(start, min(start + _TILE, n)) for start in range(0, n, _TILE)]
    tiles = [(rows, columns) for at, rows in enumerate(ranges) for columns in ranges[at:]]

    def one(tile: tuple[slice, slice], space: Workspace) -> _Tile:
        return _work_on_tile(clouds, centred, tile, space)

    best = _Best(b, n, _n_candidates(clouds), centred.rest)
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
    """The nearest in one tile: values and positions (b, <= 2048, <= k); energy (b,) of it."""

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
    energy = _energy(clouds, squared)
    to_squared_distances(squared, norms[:, rows], norms[:, columns], centred.sides(rows, columns))
    exclude(squared, clouds, rows, columns)
    k = _n_candidates(clouds)
    of_rows = smallest(squared, min(k, shape[2]))
    if rows == columns:
        return _Tile(of_rows, None, energy)
    return _Tile(of_rows, smallest_in_columns(squared, min(k, shape[1])), 2 * energy)


class _Best:
    """The nearest neighbours seen so far, (b, n, k)."""

    def __init__(self, b: int, n: int, k: int, like: Tensor) -> None:
        shape = (b, n, k)
        self.squared = torch.full(shape, torch.inf, dtype=like.dtype, device=like.device)
        self.index = torch.zeros(shape, dtype=torch.int64, device=like.device)

    def offer(self, points: slice, first: int, found: tuple[Tensor, Tensor]) -> None:
        """Take in the nearest (b, p, <= k) of a range of points that begins at `first`."""
        squared, index = found
        both = torch.cat([self.squared[:, points], squared], -1)  # (b, p, <= 2 k)
        indices = torch.cat([self.index[:, points], index + first], -1)
        self.squared[:, points], place = both.topk(
            self.squared.shape[-1], largest=False, sorted=True
        )
        self.index[:, points] = indices.gather(-1, place)


def _n_candidates(clouds: Clouds) -> int:
    return n_candidates(clouds.heavy, clouds.theiler_window)


def _square_norm(product: Tensor) -> Tensor:
    """Return squared Frobenius norms (b,) of (b, r, c)."""
    return torch.linalg.vector_norm(product, dim=2).double().square().sum(1)


def exclude(squared: Tensor, clouds: Clouds, rows: slice, columns: slice) -> None:
    """Make heavy points, each point itself and its neighbours in time infinitely far.

    squared is (b, r, c).
    """
    squared.masked_fill_(clouds.heavy[:, None, columns], torch.inf)
    exclude_in_time(squared, clouds, rows, columns)


def exclude_in_time(squared: Tensor, clouds: Clouds, rows: slice, columns: slice) -> None:
    """Make each point itself and its neighbours in time infinitely far: squared is (b, r, c)."""
    gap = columns.start - rows.start
    if clouds.theiler_window == 0:
        if gap < squared.shape[1]:
            squared.diagonal(-gap, 1, 2).fill_(torch.inf)
        return
    apart = clouds.times[rows, None] - clouds.times[columns]
    squared.masked_fill_(apart.abs() <= clouds.theiler_window, torch.inf)


def _with_outliers(
    clouds: Clouds, centred: Centred, trace: Tensor, energy: Tensor
) -> tuple[Tensor, Tensor]:
    """Add the outlier dimensions to the trace (b,) and squared norm (b,) of the Gram matrices.

    They equal those of n - 1 times the covariance, which has the same spectrum.
    """
    if centred.outliers is None:
        return trace, energy
    used = ~clouds.heavy.unsqueeze(-1)  # (b, n, 1)
    outliers = centred.outliers.double() * used
    outliers = (outliers - outliers.sum(1, keepdim=True) / used.sum(1, keepdim=True)) * used
    trace = trace + outliers.square().sum((1, 2))
    if not clouds.participation:  # nothing else needs the norm
        return trace, energy
    cross = centred.rest.mT @ outliers.to(centred.rest.dtype)  # (b, D, 8)
    energy = energy + 2 * cross.double().square().sum((1, 2))
    return trace, energy + (outliers.mT @ outliers).square().sum((1, 2))


def _settle(
    clouds: Clouds,
    found: _Found,
    linear: list[tuple[Linear, Linear] | None],
    dtype: torch.dtype,
) -> Neighbours:
    """Judge the errors of the product, compute again what is in doubt, and order the result.

    As in `kernels.settle`, where it is explained.
    """
    squared, index = found.squared, found.nearest  # (b, n, k)
    doubts = _doubts(squared, found.norms.double(), dtype)
    limit = _LARGEST[dtype]
    doubtful = ~((found.trace < limit) & (found.trace > 1 / limit))  # true for NaN, too
    used = ~clouds.heavy & ~doubtful.unsqueeze(-1)
    pairs = doubts.pairs & used.unsqueeze(-1)
    repaired = pairs.any(2).any(1)
    if dtype == torch.float32:
        pairs[..., :2] = used.unsqueeze(-1)
    _repair_pairs(clouds.raw, squared, index, pairs)
    squared, order = squared.sort(-1)
    squared, index = squared[..., :N_NEIGHBOURS], index.gather(-1, order)[..., :N_NEIGHBOURS]
    rows = doubts.open & used & ~(squared[..., -1] <= doubts.bound)
    if dtype == torch.float32:
        doubtful |= rows.sum(1) > max(8, UNPROVEN * rows.shape[1])
    _repair_rows(clouds, squared, index, rows & ~doubtful.unsqueeze(-1))
    return Neighbours(squared, index, linear, doubtful, repaired)


class _Doubts(NamedTuple):
    """Which pairs (b, n, k), and which sets of candidates (b, n), the product does not settle.

    All other points are farther than `bound` (b, n), unless it is infinite.
    """

    pairs: Tensor
    open: Tensor
    bound: Tensor


def _doubts(squared: Tensor, norms: Tensor, dtype: torch.dtype) -> _Doubts:
    """Compare possible rounding errors with squared distances (b, n, k) and their spread."""
    possible = ERROR_IN_EPS * torch.finfo(dtype).eps * (norms + squared[..., -1])  # (b, n)
    kept = squared[..., :N_NEIGHBOURS]
    last = kept[..., -1]
    spread = (1 - kept / last.unsqueeze(-1)).sum(-1)
    tolerance = TOLERANCE if dtype == torch.float32 else TOLERANCE / 64
    wide = tolerance * last * torch.clamp(SPREAD * spread, max=1)
    open_sets = ~(possible <= wide)  # true for NaN, too
    pairs = possible.unsqueeze(-1) > tolerance * squared
    pairs[..., N_NEIGHBOURS:] = False
    relative = (possible / (last * spread.clamp_min(1e-12))).where(~open_sets, 0)
    predicted = relative.square().sum(1).sqrt() / squared.shape[1]  # (b,)
    open_sets = open_sets | (predicted > ACCEPTED).unsqueeze(-1)
    return _Doubts(pairs | open_sets.unsqueeze(-1), open_sets, squared[..., -1] - possible)


def _repair_pairs(raw: Tensor, squared: Tensor, index: Tensor, pairs: Tensor) -> None:
    """Replace the marked squared distances by sums of squared differences, in place."""
    b, n, D = raw.shape
    cloud, row, rank = pairs.nonzero(as_tuple=True)
    points = raw.reshape(b * n, D)
    left, right = cloud * n + row, cloud * n + index[cloud, row, rank]
    step = max(1, (_GPU_PAIR_ELEMENTS if raw.is_cuda else _PAIR_ELEMENTS) // D)
    exact = [
        (points.index_select(0, one).double() - points.index_select(0, other).double())
        .square()
        .sum(-1)
        for one, other in zip(left.split(step), right.split(step), strict=True)
    ]
    if exact:
        squared[cloud, row, rank] = torch.cat(exact)


def distances_from(points: Tensor, rows: Tensor) -> Tensor:
    """Return exact squared distances (r, n) float64 of some of the points (n, D) from all."""
    if points.device.type == "cpu" and points.dtype == torch.float32:
        squared = torch.empty((len(rows), len(points)), dtype=torch.float64)
        kernels.distances_from(points.numpy(), rows.numpy(), squared.numpy())
        return squared
    step = max(1, _GATHER_ELEMENTS // points.shape[-1])
    chosen = points[rows].double()
    return torch.stack(
        [
            torch.cat([(part.double() - here).square().sum(-1) for part in points.split(step)])
            for here in chosen
        ]
    )


def _repair_rows(clouds: Clouds, squared: Tensor, index: Tensor, rows: Tensor) -> None:
    """Find the neighbours of the marked rows among all points, by differences in float64."""
    raw = clouds.raw
    for cloud, row in rows.nonzero().tolist():
        one = clouds.one(cloud)
        positions = torch.tensor([row], device=raw.device)
        from_row = distances_from(raw[cloud], positions)[None]  # (1, 1, n)
        exclude(from_row, one, slice(row, row + 1), slice(0, len(raw[cloud])))
        squared[cloud, row], index[cloud, row] = (
            got[0, 0] for got in smallest(from_row, squared.shape[-1])
        )
