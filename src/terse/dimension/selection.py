"""The k smallest of each row or column, without sorting most of it."""

import sys

import numpy as np
import torch
from torch import Tensor

_GROUPS = 256
_MEMBERS = 4
_SORTED_AT_ONCE = 128


def smallest(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k smallest entries of each row, ascending, and their columns.

    Entries are dealt into groups, and only the k groups with the smallest minima can hold any of
    the k smallest entries. The minima are one vectorised pass; what is sorted is a few hundred
    entries a row instead of all.

    Args:
        values: (..., n), n >= k, without NaN.
        k: entries per row, at most 21.

    Returns:
        Values (..., k) ascending, and int64 columns (..., k).
    """
    n = values.shape[-1]
    if n <= _SORTED_AT_ONCE or values.device.type != "cpu":
        return _sorted(values, k)
    members, groups = _deal(n)
    minima = values[..., : members * groups].unflatten(-1, (members, groups)).amin(-2)
    return _among_groups(values, minima, k)


def smallest_in_columns(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return what `smallest` returns for the transpose of `values` (..., n, c), reading by rows."""
    n = values.shape[-2]
    if n <= _SORTED_AT_ONCE or values.device.type != "cpu":
        return _sorted(values.mT.contiguous(), k)
    members, groups = _deal(n)
    minima = values[..., : members * groups, :].unflatten(-2, (members, groups)).amin(-3)
    return _among_groups(values.mT, minima.mT.contiguous(), k)


def _deal(n: int) -> tuple[int, int]:
    """Return how many members each group of n entries has, and how many groups there are."""
    members = max(_MEMBERS, n // _GROUPS)
    return members, n // members


def _among_groups(values: Tensor, minima: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Select among the entries of the k best groups (..., groups) and those in no group."""
    n, groups = values.shape[-1], minima.shape[-1]
    members = n // groups
    chosen = smallest(minima, k)[1]  # (..., k)
    columns = (chosen.unsqueeze(-1) + torch.arange(members) * groups).flatten(-2)
    if members * groups < n:
        rest = torch.arange(members * groups, n)
        columns = torch.cat([columns, rest.expand(*columns.shape[:-1], -1)], -1)
    found, places = smallest(values.gather(-1, columns), k)
    return found, columns.gather(-1, places)


def _sorted(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k smallest by looking at all; on a CPU NumPy's vectorised sorts are fastest."""
    if values.device.type != "cpu":
        return torch.topk(values, k, largest=False, sorted=True)
    if values.dtype == torch.float32 and sys.byteorder == "little":
        return _sorted_with_columns(values, k)
    columns = torch.from_numpy(np.argsort(values.numpy(), axis=-1)[..., :k])
    return values.gather(-1, columns), columns


def _sorted_with_columns(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Sort float32 values (..., n) that carry their columns; half the time of an argsort.

    The bits of a float32 as the high word of a float64 have the same order, negative numbers too;
    the low word holds the column. No such float64 is infinite or, but for odd NaNs, not a number.
    """
    words = torch.empty((*values.shape, 2), dtype=torch.int32)  # low, high
    words[..., 0] = torch.arange(values.shape[-1], dtype=torch.int32)
    words[..., 1] = values.view(torch.int32)
    keys = words.view(torch.float64).squeeze(-1)  # (..., n)
    keys.numpy().sort(axis=-1)
    best = words[..., :k, :]
    return best[..., 1].view(torch.float32), best[..., 0].long()
