"""Moments and the largest eigenvalue of a scatter matrix that is never formed."""

import numpy as np

from terse.dimension.kernels.compiled import compiled

_BISECTIONS = 48


@compiled
def _scatter_times(x, vector, result):
    """Write X'Xv (D,) of points (n, D) into `result`, reading each point once; float32."""
    n, D = x.shape
    result[:] = 0.0
    for i in range(n):
        inner = np.float32(0.0)
        for d in range(D):
            inner += x[i, d] * vector[d]
        for d in range(D):
            result[d] += inner * x[i, d]


@compiled
def _dot(one, other):
    total = 0.0
    for d in range(len(one)):
        total += np.float64(one[d]) * np.float64(other[d])
    return total


@compiled
def _add_multiple(vector, factor, other):
    for d in range(len(vector)):
        vector[d] += factor * other[d]


@compiled
def _largest_root(diagonal, off, m):
    """Return the largest eigenvalue of a tridiagonal matrix by Sturm's count."""
    low, high = diagonal[0], diagonal[0]
    for j in range(m):
        reach = (abs(off[j - 1]) if j > 0 else 0.0) + (abs(off[j]) if j < m - 1 else 0.0)
        low, high = max(low, diagonal[j]), max(high, diagonal[j] + reach)
    for _ in range(_BISECTIONS):
        middle = low + (high - low) / 2
        pivot, above = 1.0, False  # a positive pivot: an eigenvalue is above the middle
        for j in range(m):
            beside = off[j - 1] * off[j - 1] / pivot if j > 0 else 0.0
            pivot = diagonal[j] - middle - beside
            if pivot >= 0.0:
                above = True
                break
        if above:
            low = middle
        else:
            high = middle
    return high


@compiled
def _last_share(diagonal, off, m, root):
    """Return the last component of the unit eigenvector of a root, by the three-term recurrence."""
    before, here, squares = 0.0, 1.0, 1.0
    for j in range(m - 1):
        beside = off[j - 1] * before if j > 0 else 0.0
        before, here = here, ((root - diagonal[j]) * here - beside) / off[j]
        squares += here * here
    return abs(here) / np.sqrt(squares)


@compiled
def _short_dot(one, other):
    total = np.float32(0.0)
    for d in range(len(one)):
        total += one[d] * other[d]
    return np.float64(total)


@compiled
def _largest_eigenvalue(x, added, signs, start, steps, tolerance):
    """Return the largest eigenvalue of X'X + W'SW by Lanczos' method, orthogonalised in full.

    Args:
        x: (n, D) float32 points.
        added, signs: W (w, D) float32 and the diagonal of S (w,).
        start: (D,) float32, not zero.
        steps: most steps to take.
        tolerance: residual of the eigenvector, over the eigenvalue, at which it is found.
    """
    D = x.shape[1]
    basis = np.empty((steps, D), np.float32)
    vector = start.copy()
    diagonal, off = np.empty(steps), np.empty(steps)
    length, root = np.sqrt(_dot(vector, vector)), 0.0
    for step in range(steps):
        here = basis[step]
        here[:] = 0.0
        _add_multiple(here, np.float32(1.0 / length), vector)
        _scatter_times(x, here, vector)
        for a in range(len(added)):
            _add_multiple(vector, np.float32(signs[a] * _dot(added[a], here)), added[a])
        diagonal[step] = _dot(vector, here)
        for earlier in range(step + 1):
            _add_multiple(vector, np.float32(-_dot(vector, basis[earlier])), basis[earlier])
        length = np.sqrt(_dot(vector, vector))
        off[step] = length
        root = _largest_root(diagonal, off, step + 1)
        if not length * _last_share(diagonal, off, step + 1, root) > tolerance * root:
            break
    return root


@compiled
def linear_dimensions(x, trace, energy, added, signs, start, mixed, steps, tolerance):
    """Return (sum lambda)^2 / sum lambda^2 and the largest lambda over their sum, of X'X + W'SW.

    Args:
        x: (n, D) float32 centred points.
        trace, energy: of X'X, the sum of its eigenvalues and of their squares.
        added, signs: W (w, D) and the diagonal of S (w,), float64; none, or the first is the
            likeliest direction of the largest eigenvalue.
        start: (D,) float32 unit vector.
        mixed: weight of the start beside that direction.
        steps, tolerance: as in `_largest_eigenvalue`.
    """
    w = len(added)
    small = added.astype(np.float32)
    for a in range(w):
        cross = 0.0
        for i in range(len(x)):
            inner = _short_dot(x[i], small[a])
            cross += inner * inner
        trace += signs[a] * _dot(added[a], added[a])
        energy += 2 * signs[a] * cross
        for c in range(w):
            inner = _dot(added[a], added[c])
            energy += signs[a] * signs[c] * inner * inner
    if not energy > 0.0:
        return np.nan, np.nan
    begin = start.copy()
    if w > 0:
        begin *= np.float32(mixed)
        _add_multiple(begin, np.float32(1.0 / np.sqrt(_dot(added[0], added[0]))), small[0])
    root = _largest_eigenvalue(x, small, signs, begin, steps, tolerance)
    return trace * trace / energy, root / trace
