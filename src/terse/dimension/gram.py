"""Squared distances of all pairs by one half of a matrix product, without its usual traps."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

N_OUTLIERS = 8
"""How many dimensions of largest magnitude are taken out of the product."""

OUTLIER_SHARE = 0.5
"""Share of the points' energy, every point counting alike, from which those are taken out."""

_LARGE_OFFSET = 10.0
_ROWS = 128
_BLOCK_ELEMENTS = 1 << 18
_PADDING = 16
_ON_CPU = torch.empty(0)  # buffers lie where it does


@contextmanager
def exact_products() -> Iterator[None]:
    """Forbid TF32 and bfloat16 shortcuts inside, whatever the caller has set (all threads)."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def plain_arithmetic(device: torch.device) -> Iterator[None]:
    """Switch gradients and autocast off inside (this thread)."""
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        yield


class Workspace:
    """Buffers that are used again for every cloud: fresh pages cost more than sums."""

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}
        self._arrays: dict[str, np.ndarray] = {}

    def take(self, name: str, shape: tuple[int, ...], dtype: torch.dtype, like: Tensor) -> Tensor:
        """Return an uninitialised tensor of this shape; the same memory where it fits."""
        size = 1
        for length in shape:
            size *= length
        held = self._held.get(name)
        if held is None or held.dtype != dtype or held.numel() < size:
            held = self._held[name] = torch.empty(size, dtype=dtype, device=like.device)
        return held[:size].view(shape)

    def take_array(self, name: str, shape: tuple[int, int]) -> np.ndarray:
        """Return a float32 array of this shape on the CPU, in the same way."""
        held = self._arrays.get(name)
        if held is None or held.shape != shape:
            room = self.take(name, shape, torch.float32, _ON_CPU)
            held = self._arrays[name] = room.numpy()
        return held

    def shrink(self, most: int) -> None:
        """Forget the buffers if they hold more than `most` bytes together."""
        if sum(held.nbytes for held in self._held.values()) > most:
            self._held.clear()
            self._arrays.clear()


@dataclass(frozen=True)
class Centred:
    """Centred clouds, with their outlier dimensions split off.

    Attributes:
        rest: (b, n, D) centred coordinates, zero in the outlier dimensions of split clouds.
        norms: (b, n) their squared norms.
        offset: (b, D) what was subtracted.
        outliers: (b, n, 8) raw coordinates in the outlier dimensions (zero for clouds that are
            not split), or None where no cloud is.
        dims: (b, 8) those dimensions, or None.
    """

    rest: Tensor
    norms: Tensor
    offset: Tensor
    outliers: Tensor | None
    dims: Tensor | None

    def sides(self, rows: slice, columns: slice) -> tuple[Tensor, Tensor] | None:
        """Return the outlier coordinates of two ranges of points, if any are split off."""
        if self.outliers is None:
            return None
        return self.outliers[:, rows], self.outliers[:, columns]


def centre(raw: Tensor, heavy: Tensor, dtype: torch.dtype, space: Workspace) -> Centred:
    """Centre clouds (b, n, D) in `dtype` and split off dimensions that dwarf all others.

    Heavy points (b, n) do not count in the mean, and become zero.
    """
    rest = space.take("rest", tuple(raw.shape), dtype, raw)
    used = (~heavy).to(dtype).unsqueeze(1)  # (b, 1, n)
    offset = rest.new_zeros(len(raw), 1, raw.shape[2])  # (b, 1, D)
    for rows in _blocks(raw):
        rest[:, rows].copy_(raw[:, rows])
        rest[:, rows].masked_fill_(heavy[:, rows].unsqueeze(-1), 0)
        offset += used[..., rows] @ rest[:, rows]
    counts = used.sum(-1, keepdim=True)  # (b, 1, 1)
    offset /= counts
    norms, share = _subtract(rest, offset, heavy, space)
    if bool((offset.square().sum((1, 2)) > _LARGE_OFFSET * norms.mean(1)).any()):
        # the float32 mean of a large offset is itself off by more than the points' spread
        again = rest.sum(1, keepdim=True) / counts
        norms, share = _subtract(rest, again, heavy, space)
        offset = offset + again
    heaviest = share.topk(min(N_OUTLIERS, share.shape[1]))
    split = heaviest.values.sum(-1) > OUTLIER_SHARE * counts.flatten()
    chosen = split.nonzero().flatten().tolist()
    if not chosen:
        return Centred(rest, norms, offset.squeeze(1), None, None)
    outliers = rest.new_zeros(*rest.shape[:2], heaviest.indices.shape[-1])  # (b, n, 8)
    for cloud in chosen:
        dims = heaviest.indices[cloud]
        outliers[cloud] = raw[cloud][:, dims].to(dtype)
        rest[cloud, :, dims] = 0
    norms = torch.linalg.vector_norm(rest, dim=-1).square()
    return Centred(rest, norms, offset.squeeze(1), outliers, heaviest.indices)


def complete(centred: Centred, heavy: Tensor, cloud: int) -> Tensor:
    """Return the centred points (n, D) of one cloud with all dimensions, heavy ones zero.

    This overwrites the buffer of `centred`, which must not be used afterwards.
    """
    rest = centred.rest[cloud]
    if centred.outliers is None or centred.dims is None or not bool(centred.outliers[cloud].any()):
        return rest
    outliers, left_out = centred.outliers[cloud].double(), heavy[cloud]
    outliers = outliers - outliers[~left_out].mean(0)
    rest[:, centred.dims[cloud]] = outliers.masked_fill(left_out.unsqueeze(-1), 0).to(rest.dtype)
    return rest


def _blocks(points: Tensor) -> Iterator[slice]:
    """Yield ranges of points (b, n, D): on a CPU so few that their numbers stay in the cache."""
    n, D = points.shape[1:]
    step = n if points.is_cuda else max(1, _BLOCK_ELEMENTS // D)
    for start in range(0, n, step):
        yield slice(start, min(start + step, n))


def _subtract(
    rest: Tensor, offset: Tensor, heavy: Tensor, space: Workspace
) -> tuple[Tensor, Tensor]:
    """Subtract an offset (b, 1, D) from the points (b, n, D) in place; heavy ones stay zero.

    Returns:
        Their squared norms (b, n), and how much of them each dimension holds (b, D), summed over
        points. Every point counts alike: one sink with a massive activation is no reason to split.
    """
    norms = rest.new_empty(rest.shape[:2])
    share = rest.new_zeros(rest.shape[0], 1, rest.shape[2])
    for rows in _blocks(rest):
        part = rest[:, rows].sub_(offset)  # (b, r, D)
        part.masked_fill_(heavy[:, rows].unsqueeze(-1), 0)
        squares = space.take("squares", tuple(part.shape), rest.dtype, rest)
        torch.mul(part, part, out=squares)
        norms[:, rows] = squares.sum(-1)
        weights = norms[:, rows].reciprocal().nan_to_num_(0, 0, 0)
        share += weights.unsqueeze(1) @ squares
    return norms, share.squeeze(1)


def gram(rest: Tensor, space: Workspace) -> Tensor:
    """Return the Gram matrices (b, n, n), computing one triangle by blocks of columns.

    Their rows lie a little more than n apart: at a distance of a power of two, such as 1024
    numbers, the rows of a block share few places in the cache, and mirroring takes four times as
    long.
    """
    b, n, _ = rest.shape
    full = space.take("gram", (b, n, n + _PADDING), rest.dtype, rest)[..., :n]
    for start in range(0, n, _ROWS):
        stop = min(start + _ROWS, n)
        multiply(rest[:, start:], rest[:, start:stop], out=full[:, start:, start:stop])
        full[:, start:stop, stop:] = full[:, stop:, start:stop].mT
    return full


def multiply(a: Tensor, b: Tensor, out: Tensor) -> None:
    """Write the inner products of rows (c, r, D) with rows (c, s, D) into `out` (c, r, s).

    One product is written in place, also into a part of a larger matrix; a batch is not.
    """
    if len(a) == 1:
        torch.mm(a[0], b[0].T, out=out[0])
    else:
        out.copy_(a @ b.mT)


def to_squared_distances(
    product: Tensor,
    row_norms: Tensor | None,
    column_norms: Tensor,
    outliers: tuple[Tensor, Tensor] | None,
) -> Tensor:
    """Turn products (b, r, n) into squared distances in place.

    Args:
        product: (b, r, n) inner products of rows and columns outside the outlier dimensions.
        row_norms: (b, r) squared norms there, or None to leave them out: they are the same for a
            whole row, whose order does not need them.
        column_norms: (b, n) squared norms there.
        outliers: coordinates (b, r, 8) and (b, n, 8) whose differences are added exactly.
    """
    torch.add(column_norms.unsqueeze(1), product, alpha=-2, out=product)
    if row_norms is not None:
        product.add_(row_norms.unsqueeze(2))
    if outliers is not None:
        for row, column in zip(outliers[0].unbind(-1), outliers[1].unbind(-1), strict=True):
            difference = row.unsqueeze(2) - column.unsqueeze(1)
            product.addcmul_(difference, difference)
    return product
