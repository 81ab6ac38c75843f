"""Heavy points: the few whose norm about the centre is a multiple of the median.

In language models these are tokens with massive activations, such as attention sinks (Sun et al.
2024, https://arxiv.org/abs/2402.17762). They pull the mean towards them, so norms are taken about a
centre that they cannot move.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from terse.dimension import kernels

NORM_MULTIPLE = 8.0
"""Norm over the median from which a point counts as heavy, where the caller names no multiple."""

MOST = 1 / 8
"""Largest share of heavy points: if there are more, they are no exception."""

_GATE = 3.5  # no cloud with heavy points has a smaller largest norm about its plain mean
_ROUNDS = 6


class Heavy(NamedTuple):
    """The heavy points of one cloud.

    Attributes:
        mask: (n,) bool.
        norms: (n,) float64, each point's norm about the mean of those that are not far beyond the
            others, over the median of them; NaN in a cloud that is not finite.
        centre: (D,) float64, the mean of the points that are not heavy.
    """

    mask: np.ndarray
    norms: np.ndarray
    centre: np.ndarray


def heavy_points(points: Tensor, multiple: float | None = None) -> Heavy:
    """Return which of the points (n, D) are heavy, about a centre that heavy ones cannot move.

    Without a multiple, those beyond `NORM_MULTIPLE` medians, or none if these are more than an
    eighth. A multiple given by the caller applies however many points exceed it. In a cloud that
    is not finite no point is heavy.
    """
    found = _exceptions(points)
    if multiple is None or not np.isfinite(found.norms).all():
        return found
    mask = found.norms > multiple
    return Heavy(mask, found.norms, _about_mean(points, mask)[1])


def _exceptions(points: Tensor) -> Heavy:
    """Return the heavy points, at most an eighth, about the mean of the others.

    The plain mean comes first. While points are far from the mean, it is computed again without
    them: an eighth of the points at most, however heavy, cannot pull it so far that the heaviest of
    them looks ordinary.
    """
    nobody = np.zeros(len(points), dtype=bool)
    far, plain = nobody, _about_mean(points, nobody)
    norms, centre = plain
    if not norms.max() > _GATE:  # not for NaN, either
        return Heavy(nobody, norms, centre)
    for _ in range(_ROUNDS):
        before, far = far, norms > _GATE
        if (far == before).all():
            break
        if far.sum() > len(points) // 2:
            return Heavy(nobody, *plain)
        norms, centre = _about_mean(points, far)
    mask = norms > NORM_MULTIPLE
    if (mask != far).any():
        norms, centre = _about_mean(points, mask)
        before, mask = mask, norms > NORM_MULTIPLE
        if (mask != before).any():
            norms, centre = _about_mean(points, mask)
    if mask.sum() > MOST * len(points):
        return Heavy(nobody, *plain)
    return Heavy(mask, norms, centre)


def _about_mean(points: Tensor, left_out: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the norms (n,) about the mean of the points that are not left out, and that mean.

    The norms are over their median, or zero where that is; all NaN where one is not finite.
    """
    if points.is_cuda or points.dtype != torch.float32:
        weights = torch.from_numpy(~left_out).to(points.device).double()
        mean = (weights @ points.double()) / weights.sum()  # (D,)
        norms = (points.double() - mean).square().sum(-1).sqrt().cpu().numpy()
        centre, middle = mean.cpu().numpy(), np.median(norms)
        finite = np.isfinite(norms).all()
    else:
        centre, norms = np.empty(points.shape[1]), np.empty(len(points))
        middle, _ = kernels.about_mean(points.numpy(), left_out, centre, norms)
        finite = not math.isnan(middle)
    if not finite:
        return np.full_like(norms, math.nan), centre
    return (norms / middle if middle > 0 else np.zeros_like(norms)), centre
