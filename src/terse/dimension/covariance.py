"""Linear dimension: moments and largest eigenvalue of a covariance that is never formed."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from scipy.linalg import eigh_tridiagonal
from torch import Tensor

from terse.dimension import kernels

_STEPS = 24
_CHECKED_EVERY = 4
_RESIDUAL = 1e-2  # of the eigenvalue; its own error is about the square of that
_MIXED = 0.3  # a heavy point alone could be an eigenvector, and not of the largest eigenvalue
_SEED = 1


class Linear(NamedTuple):
    """Linear dimensions of a covariance with eigenvalues lambda.

    Attributes:
        participation: (sum lambda)^2 / sum lambda^2.
        first_share: largest lambda over their sum, to three digits.
    """

    participation: float
    first_share: float


class Moments(NamedTuple):
    """Sum of the eigenvalues of a scatter matrix, and of their squares."""

    trace: float
    energy: float


def linear(points: Tensor, moments: Moments) -> Linear:
    """Return the linear dimensions of centred points (n, D)."""
    none = points.new_zeros((0, points.shape[1]), dtype=torch.float64)
    return _linear(points, none, none[:, 0], moments)


def linear_with(points: Tensor, moments: Moments, heavy: Tensor, n_points: int) -> Linear:
    """Return the same with heavy points (h, D) added, given about the mean of the others.

    The heavy points Y add Y'Y - N d d' to the scatter matrix, where d is the shift of the mean: no
    two large numbers are subtracted.

    Args:
        points: (n, D) centred; rows of zeros do not count.
        moments: of them.
        heavy: (h, D) float64.
        n_points: N, all points together.
    """
    added = torch.cat([heavy, heavy.sum(0, keepdim=True) / n_points])  # (h + 1, D)
    signs = heavy.new_ones(len(added))
    signs[-1] = -n_points
    return _linear(points, added, signs, moments)


def _linear(points: Tensor, added: Tensor, signs: Tensor, moments: Moments) -> Linear:
    """Return the linear dimensions of X'X + W'SW for W (w, D) and S (w,) float64."""
    start, steps = _start(points.shape[1]), min(_STEPS, points.shape[1])
    if points.device.type == "cpu" and points.dtype == torch.float32:
        return _by_kernel(points.numpy(), added.numpy(), signs.numpy(), moments)
    small = added.to(points.dtype)
    inner = added @ added.T
    cross = (points @ small.T).double().square().sum(0)  # (w,)
    trace = moments.trace + float(signs @ inner.diagonal())
    energy = moments.energy + 2 * float(signs @ cross)
    energy += float((signs.outer(signs) * inner.square()).sum())
    if not energy > 0:
        return Linear(float("nan"), float("nan"))
    start = start.to(points)
    if len(added):
        start = _MIXED * start + small[0] / small[0].norm()
    largest = _largest_eigenvalue(points, small, signs.to(points.dtype), start, steps)
    return Linear(trace**2 / energy, largest / trace)


def both_linear(points: np.ndarray, moments: Moments, heavy: np.ndarray) -> tuple[Linear, Linear]:
    """Return the linear dimensions of points on a CPU without and with heavy ones.

    Args:
        points: (n, D) float32 centred, zero where they are heavy.
        moments: of them.
        heavy: (h, D) float64, the heavy points about the mean of the others.
    """
    none = np.empty((0, points.shape[1]))
    without = _by_kernel(points, none, none[:, 0], moments)
    if not len(heavy):
        return without, without
    added = np.concatenate([heavy, heavy.sum(0, keepdims=True) / len(points)])  # as `linear_with`
    signs = np.ones(len(added))
    signs[-1] = -len(points)
    return without, _by_kernel(points, added, signs, moments)


def _by_kernel(
    points: np.ndarray, added: np.ndarray, signs: np.ndarray, moments: Moments
) -> Linear:
    D = points.shape[1]
    options = (_MIXED, min(_STEPS, D), _RESIDUAL)
    start = _start(D).numpy()
    return Linear(*kernels.linear_dimensions(points, *moments, added, signs, start, *options))


def _largest_eigenvalue(
    points: Tensor, added: Tensor, signs: Tensor, start: Tensor, steps: int
) -> float:
    """Return the largest eigenvalue of X'X + W'SW by Lanczos' method, orthogonalised in full."""
    basis = [start / start.norm()]
    diagonal: list[float] = []
    off_diagonal: list[float] = []
    for step in range(1, steps + 1):
        vector = points.T @ (points @ basis[-1])
        if len(added):
            vector = vector + added.T @ (signs * (added @ basis[-1]))
        diagonal.append(float(vector @ basis[-1]))
        known = torch.stack(basis)
        vector = vector - known.T @ (known @ vector)
        length = float(vector.norm())
        if step % _CHECKED_EVERY == 0 or step == steps or length <= _RESIDUAL * max(diagonal):
            values, vectors = eigh_tridiagonal(diagonal, off_diagonal)
            if length * abs(vectors[-1, -1]) <= _RESIDUAL * values[-1] or step == steps:
                return float(values[-1])
        off_diagonal.append(length)
        basis.append(vector / length)
    raise AssertionError("the last step returns")


@lru_cache(maxsize=4)
def _start(D: int) -> Tensor:
    """Return a random unit vector (D,), always the same."""
    direction = torch.randn(D, generator=torch.Generator().manual_seed(_SEED))
    return direction / direction.norm()
