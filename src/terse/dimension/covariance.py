"""Linear dimension: moments and the largest eigenvalue of a covariance, never formed itself."""

from typing import NamedTuple

import torch
from torch import Tensor

_STEPS = 24
_RESIDUAL = 5e-3  # of the eigenvalue; its own error is about the square of that
_SEED = 1


class Linear(NamedTuple):
    """What a covariance with eigenvalues lambda says.

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
    """Return what the scatter matrix of centred points (n, D) says."""
    return _linear(points, points[:0], points.new_zeros(0), moments)


def linear_with(points: Tensor, moments: Moments, heavy: Tensor, n_points: int) -> Linear:
    """Return the same with heavy points (h, D) added, given about the mean of the others.

    Their scatter is Y'Y - N d d', d the shift of the mean, so that nothing large is subtracted
    from anything large.

    Args:
        points: (n, D) centred; rows of zeros do not count.
        moments: of them.
        heavy: (h, D) float64.
        n_points: N, all points together.
    """
    added = torch.cat([heavy, heavy.sum(0, keepdim=True) / n_points])  # (h + 1, D)
    signs = heavy.new_ones(len(added))
    signs[-1] = -n_points
    inner = added @ added.T
    cross = (points @ added.to(points.dtype).T).double().square().sum(0)  # (h + 1,)
    trace = moments.trace + float(signs @ inner.diagonal())
    energy = moments.energy + 2 * float(signs @ cross)
    energy += float((signs.outer(signs) * inner.square()).sum())
    return _linear(points, added, signs, Moments(trace, energy))


def _linear(points: Tensor, added: Tensor, signs: Tensor, moments: Moments) -> Linear:
    if not moments.energy > 0:
        return Linear(float("nan"), float("nan"))
    largest = _largest_eigenvalue(points, added.to(points.dtype), signs.to(points.dtype))
    return Linear(moments.trace**2 / moments.energy, largest / moments.trace)


def _largest_eigenvalue(points: Tensor, added: Tensor, signs: Tensor) -> float:
    """Return the largest eigenvalue of X'X + W'SW by Lanczos' method, orthogonalised in full."""
    D = points.shape[1]
    generator = torch.Generator().manual_seed(_SEED)
    start = torch.randn(D, generator=generator).to(points) if not len(added) else added[0]
    basis = [start / start.norm()]
    diagonal: list[float] = []
    beside: list[float] = []
    largest = 0.0
    for _ in range(min(_STEPS, D)):
        vector = points.T @ (points @ basis[-1])
        if len(added):
            vector = vector + added.T @ (signs * (added @ basis[-1]))
        diagonal.append(float(vector @ basis[-1]))
        known = torch.stack(basis)
        vector = vector - known.T @ (known @ vector)
        length = float(vector.norm())
        tridiagonal = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
        if beside:
            off = torch.tensor(beside, dtype=torch.float64)
            tridiagonal += torch.diag(off, 1) + torch.diag(off, -1)
        values, vectors = torch.linalg.eigh(tridiagonal)
        largest = float(values[-1])
        if length * abs(float(vectors[-1, -1])) <= _RESIDUAL * largest:
            break
        beside.append(length)
        basis.append(vector / length)
    return largest
