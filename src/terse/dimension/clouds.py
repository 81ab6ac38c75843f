"""From a caller's input to distinct points: checks, sinks and duplicates."""

import math
import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from terse.dimension.sinks import heavy_points
from terse.errors import TerseError

_HASH_SEED = 20210
_HASHED_WORDS = 32
_WORDS = {8: torch.int64, 4: torch.int32, 2: torch.int16}


def as_batch(points: np.ndarray | Tensor) -> tuple[Tensor, bool]:
    """Return the points as a tensor (B, N, D), and whether they came as one cloud (N, D).

    Raises:
        TerseError: not an array of floating numbers with two or three axes, or an empty axis.
    """
    tensor = _as_tensor(points)
    if not tensor.is_floating_point():
        raise TerseError(
            f"points have type {tensor.dtype}; allowed: float16, bfloat16, float32, float64"
        )
    if tensor.ndim not in (2, 3) or 0 in tensor.shape:
        raise TerseError(
            f"points have shape {tuple(tensor.shape)}; allowed: (N, D) for one cloud or "
            "(B, N, D) for a batch, no axis empty"
        )
    single = tensor.ndim == 2
    return (tensor.unsqueeze(0) if single else tensor).detach(), single


def _as_tensor(points: np.ndarray | Tensor) -> Tensor:
    if isinstance(points, Tensor):
        return points
    if not isinstance(points, np.ndarray):
        raise TerseError(
            f"points are a {type(points).__name__}; allowed: a NumPy array or a torch tensor"
        )
    if points.dtype.kind == "f" and not points.dtype.isnative:
        points = points.astype(points.dtype.newbyteorder("="))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # read-only memory: we only read
            return torch.from_numpy(np.ascontiguousarray(points))
    except TypeError as error:
        raise TerseError(
            f"points have type {points.dtype}; allowed: float16, float32, float64"
        ) from error


class Chosen(NamedTuple):
    """Which points of one cloud (N, D) are used.

    Attributes:
        mask: (N,) bool.
        n_dup: later copies of a row that are left out.
        heavy: (N,) bool, points far beyond the others (see `terse.dimension.sinks`), among the
            used ones unless the caller gives a multiple.
        heaviest: the largest norm about the centre over the median; NaN if one is not finite.
        centre: (D,) float64, the mean of the used points that are not heavy.
    """

    mask: np.ndarray
    n_dup: int
    heavy: np.ndarray
    heaviest: float
    centre: np.ndarray


@dataclass(frozen=True)
class Kept:
    """The same of a batch: (B, N) bool, (B,) int64, (B, N) bool and (B,) float64."""

    mask: Tensor
    n_dup: Tensor
    heavy: Tensor
    heaviest: Tensor


def keep(batch: Tensor, skip_first: int, max_norm_multiple: float | None) -> Kept:
    """Choose the points of each cloud (B, N, D); see `choose`."""
    mask = torch.ones(batch.shape[:2], dtype=torch.bool, device=batch.device)
    mask[:, :skip_first] = False
    repeated = set(with_equal_hashes(batch, mask))
    chosen = [
        choose(points, skip_first, max_norm_multiple, cloud in repeated)
        for cloud, points in enumerate(batch)
    ]
    columns = zip(*(one[:4] for one in chosen), strict=True)
    return Kept(*(torch.from_numpy(np.array(one)).to(batch.device) for one in columns))


def choose(
    points: Tensor, skip_first: int, max_norm_multiple: float | None, may_repeat: bool
) -> Chosen:
    """Choose from points (N, D): not the first ones, one of each set of equal rows, no heavy ones.

    Heavy points are left out where `max_norm_multiple` is given, and only marked otherwise. Whether
    rows are equal is looked at only where they may be.
    """
    mask, n_dup = np.ones(len(points), bool), 0
    mask[:skip_first] = False
    if may_repeat and mask.any():
        copies = later_copies(points, torch.from_numpy(mask).to(points.device)).cpu().numpy()
        mask &= ~copies
        n_dup = int(copies.sum())
    n_used = np.count_nonzero(mask)
    if n_used == 0:
        return Chosen(mask, n_dup, np.zeros_like(mask), math.nan, np.zeros(points.shape[1]))
    if n_used == len(mask):
        found = heavy_points(points, max_norm_multiple)
        heavy = found.mask
    else:
        found = heavy_points(points[torch.from_numpy(mask).to(points.device)], max_norm_multiple)
        heavy = np.zeros_like(mask)
        heavy[mask] = found.mask
    if max_norm_multiple is not None:
        mask &= ~heavy
    return Chosen(mask, n_dup, heavy, float(found.norms.max()), found.centre)


@lru_cache(maxsize=4)
def _odd_numbers(n: int) -> Tensor:
    """Return n random odd int64, always the same."""
    generator = torch.Generator().manual_seed(_HASH_SEED)
    return torch.randint(-(2**62), 2**62, (n,), generator=generator) * 2 + 1


def with_equal_hashes(batch: Tensor, mask: Tensor) -> list[int]:
    """Return the clouds in which two used rows may be equal; equal bytes never escape."""
    row_bytes = batch.shape[-1] * batch.element_size()
    word = next(size for size in (8, 4, 2) if row_bytes % size == 0)
    words = (batch + 0.0).contiguous().view(_WORDS[word])  # (B, N, W); -0 becomes 0
    odd = _odd_numbers(min(_HASHED_WORDS, words.shape[-1])).to(batch.device)
    hashes = torch.stack([(cloud[:, : len(odd)] * odd).sum(-1) for cloud in words])  # wraps around
    # rows that are not used get hashes of their own, so that they equal nothing
    place = torch.arange(hashes.shape[1], device=hashes.device)
    hashes = hashes.where(mask, place)
    ordered = hashes.sort(-1).values
    return (ordered[:, 1:] == ordered[:, :-1]).any(-1).nonzero().flatten().tolist()


def later_copies(points: Tensor, mask: Tensor) -> Tensor:
    """Return which used rows (N,) equal an earlier used row of `points` (N, D); -0 equals 0."""
    used = mask.nonzero().flatten()
    rows = (points[used] + 0.0).cpu().contiguous()
    cells = rows.view(torch.uint8).numpy()
    cells = cells.reshape(len(rows), -1).view(f"V{cells.shape[-1]}").ravel()
    first = np.unique(cells, return_index=True)[1]
    copies = np.ones(len(rows), dtype=bool)
    copies[first] = False
    result = torch.zeros_like(mask)
    result[used] = torch.from_numpy(copies).to(mask.device)
    return result


def count_nonfinite(points: Tensor) -> int:
    """Return how many values of `points` are infinite or not a number."""
    return int((~points.isfinite()).sum())
