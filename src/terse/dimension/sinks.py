"""Heavy points: the few whose norm about the centre is a multiple of the median.

In language models they are tokens with massive activations, attention sinks (Sun et al. 2024,
https://arxiv.org/abs/2402.17762). A mean is drawn to them, so norms are taken about a centre that
they cannot move.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from terse.dimension import kernels

NORM_MULTIPLE = 8.0
"""Norm over the median from which a point counts as heavy, where the caller names no multiple."""

MOST = 1 / 8
"""Largest share of heavy points: where more are, they are not the exception."""

_GATE = 3.5  # no cloud with heavy points has a smaller largest norm about its plain mean
_SAMPLE = 33
_ROUNDS = 3


class Heavy(NamedTuple):
    """The heavy points of one cloud.

    Attributes:
        mask: (n,) bool.
        norms: (n,) float64, each point's norm about the centre, over the median of them.
    """

    mask: Tensor
    norms: Tensor


def heavy_points(points: Tensor, multiple: float = NORM_MULTIPLE) -> Heavy:
    """Return which of the points (n, D) are heavy, about the mean of those that are not.

    The search starts at the plain mean, and where that shows a large norm at the median of a few
    points in each dimension. Points that are not finite make no point heavy.
    """
    everything = torch.zeros(len(points), dtype=torch.bool, device=points.device)
    norms = _relative_norms(points, _mean(points, everything))
    if not bool(norms.isfinite().all()):
        return Heavy(everything, torch.full_like(norms, math.nan))
    if float(norms.max()) <= min(_GATE, multiple / 2):
        return Heavy(everything, norms)
    norms = _relative_norms(points, _middle(points))
    mask = norms > multiple
    for _ in range(_ROUNDS):
        if int(mask.sum()) > MOST * len(points):
            return Heavy(everything, norms)
        norms = _relative_norms(points, _mean(points, mask))
        before, mask = mask, norms > multiple
        if bool((mask == before).all()):
            break
    few = int(mask.sum()) <= MOST * len(points)
    return Heavy(mask if few else everything, norms)


def _middle(points: Tensor) -> Tensor:
    """Return the median (D,) of evenly spread points, which a few heavy ones cannot move."""
    step = max(1, len(points) // _SAMPLE)
    return points[::step].median(0).values.double()


def _mean(points: Tensor, left_out: Tensor) -> Tensor:
    """Return the mean (D,) float64 of the points that are not left out."""
    if points.is_cuda:
        weights = (~left_out).double()
        return (weights @ points.double()) / weights.sum()
    sums = torch.empty(points.shape[1], dtype=torch.float64)
    kernels.mean_of(points.numpy(), left_out.numpy(), sums.numpy())
    return sums


def _relative_norms(points: Tensor, centre: Tensor) -> Tensor:
    """Return the norms (n,) float64 about a centre (D,), over their median; zero if that is."""
    if points.is_cuda:
        squares = (points.double() - centre).square().sum(-1)
    else:
        squares = torch.empty(len(points), dtype=torch.float64)
        kernels.norms_about(points.numpy(), centre.numpy(), squares.numpy())
    norms = squares.sqrt()
    middle = norms.median()
    return norms / middle if float(middle) > 0 else norms * 0
