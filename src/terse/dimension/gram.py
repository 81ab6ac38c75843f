"""Squared distances of all pairs by one half of a matrix product, without its usual traps."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

N_OUTLIERS = 8
"""How many dimensions of largest magnitude are taken out of the product."""

_OUTLIER_SHARE = 0.5
_LARGE_OFFSET = 10.0
_ROWS = 128
_BLOCK_ELEMENTS = 1 << 18
_PADDING = 16


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
    """Buffers that are used again for every cloud of a call: fresh pages cost more than sums."""

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}

    def take(self, name: str, shape: tuple[int, ...], dtype: torch.dtype, like: Tensor) -> Tensor:
        """Return an uninitialised tensor of this shape; the same memory where it fits."""
        size = 1
        for length in shape:
            size *= length
        held = self._held.get(name)
        if held is None or held.dtype != dtype or held.numel() < size:
            held = self._held[name] = torch.empty(size, dtype=dtype, device=like.device)
        return held[:size].view(shape)


@dataclass(frozen=True)
class Centred:
    """Clouds about their means, the outlier dimensions split off.

    Attributes:
        rest: (b, n, D) centred coordinates, zero in the outlier dimensions of split clouds.
        norms: (b, n) their squared norms.
        outliers: (b, n, 8) raw coordinates in the outlier dimensions (zero for clouds that are
            not split), or None where no cloud is.
    """

    rest: Tensor
    norms: Tensor
    outliers: Tensor | None

    def sides(self, rows: slice, columns: slice) -> tuple[Tensor, Tensor] | None:
        """Return the outlier coordinates of two ranges of points, if any are split off."""
        if self.outliers is None:
            return None
        return self.outliers[:, rows], self.outliers[:, columns]


def centre(raw: Tensor, dtype: torch.dtype, space: Workspace) -> Centred:
    """Centre clouds (b, n, D) in `dtype` and split off dimensions that dwarf all others."""
    rest = space.take("rest", tuple(raw.shape), dtype, raw)
    offset = rest.new_zeros(len(raw), 1, raw.shape[2])  # (b, 1, D)
    for rows in _blocks(raw):
        rest[:, rows].copy_(raw[:, rows])
        offset += rest[:, rows].sum(1, keepdim=True)
    offset /= raw.shape[1]
    norms, share = _subtract(rest, offset, space)
    if bool((offset.square().sum((1, 2)) > _LARGE_OFFSET * norms.mean(1)).any()):
        # the float32 mean of a large offset is itself off by more than the points' spread
        norms, share = _subtract(rest, rest.mean(1, keepdim=True), space)
    heaviest = share.topk(min(N_OUTLIERS, share.shape[1]))
    split = heaviest.values.sum(-1) > _OUTLIER_SHARE * raw.shape[1]
    chosen = split.nonzero().flatten().tolist()
    if not chosen:
        return Centred(rest, norms, None)
    outliers = rest.new_zeros(*rest.shape[:2], heaviest.indices.shape[-1])  # (b, n, 8)
    for cloud in chosen:
        dims = heaviest.indices[cloud]
        outliers[cloud] = raw[cloud][:, dims].to(dtype)
        rest[cloud, :, dims] = 0
    return Centred(rest, torch.linalg.vector_norm(rest, dim=-1).square(), outliers)


def _blocks(points: Tensor) -> Iterator[slice]:
    """Yield ranges of points (b, n, D): on a CPU so few that their numbers stay in the cache."""
    n, D = points.shape[1:]
    step = n if points.is_cuda else max(1, _BLOCK_ELEMENTS // D)
    for start in range(0, n, step):
        yield slice(start, min(start + step, n))


def _subtract(rest: Tensor, offset: Tensor, space: Workspace) -> tuple[Tensor, Tensor]:
    """Subtract an offset (b, 1, D) from the points (b, n, D) in place.

    Returns:
        Their squared norms (b, n), and how much of them each dimension holds (b, D), summed over
        points. Every point counts alike: one sink with a massive activation is no reason to split.
    """
    norms = rest.new_empty(rest.shape[:2])
    share = rest.new_zeros(rest.shape[0], 1, rest.shape[2])
    for rows in _blocks(rest):
        part = rest[:, rows].sub_(offset)  # (b, r, D)
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
