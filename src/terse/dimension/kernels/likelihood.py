"""Estimates of one cloud from its squared neighbour distances.

A logarithm costs as much as dozens of products, so as few as possible are taken.
"""

import numpy as np

from terse.dimension.kernels.compiled import compiled

_SMALLEST = 1e-150  # of a product of ten ratios; below it they are taken one by one


@compiled
def _likelihood_root(x, constant, m, weight, d, lowest, steps, tolerance):
    """Take the steps of `estimators._likelihood_root` for one cloud (n,), from a start d."""
    total = x.sum()
    for _ in range(steps):
        value, slope = constant - weight * d * total, -weight * total
        for i in range(len(x)):
            y = d * x[i]
            if y > 0:
                phi = y / np.expm1(y)
                value += m * phi
                slope += m * phi * (1 - phi - y) / d
            else:
                value += m
        before = d
        d = max(lowest, d - value / slope)
        if abs(before - d) <= tolerance * d:
            break
    return d


@compiled
def _ratio_quantile(x, first, level):
    """Return the interpolated quantile of exp(x) over x (n,) ascending from position `first`."""
    n = len(x)
    at = first + level * max(n - first - 1, 0)
    below = min(int(at), n - 1)
    low, high = np.exp(x[below]), np.exp(x[min(below + 1, n - 1)])
    return low + (at - below) * (high - low)


@compiled
def log_ratios(squared, n1, n2, x):
    """Write log(r_n2 / r_n1) (n,) of squared distances (n, >= n2) to the first neighbours."""
    for i in range(len(squared)):
        x[i] = 0.5 * np.log(squared[i, n2 - 1] / squared[i, n1 - 1])


@compiled
def twonn(x, n, first):
    """Return the slope through the origin of -log(1 - i / n) over x, ranks i from `first` on.

    x: the smallest of n values log(r_2 / r_1), ascending.
    """
    both, squares = 0.0, 0.0
    for i in range(len(x)):
        both += x[i] * -np.log1p(-(first + i) / n)
        squares += x[i] * x[i]
    return both / squares


@compiled
def gride(x, n1, n2, steps, tolerance):
    """Return the GRIDE estimate and its information, as `estimators.gride` does.

    x: (n,) log(r_n2 / r_n1), ascending. NaN where none is above zero.
    """
    n = len(x)
    first = np.searchsorted(x, 0.0, side="right")
    middle, high = _ratio_quantile(x, first, 0.5), _ratio_quantile(x, first, 0.95)
    last = n
    while last > first and not np.exp(x[last - 1]) < 20 * (high - middle) + middle:
        last -= 1
    kept = last - first
    if kept == 0:
        return np.nan, np.nan
    x = x[first:last]
    m, total = float(n2 - n1 - 1), x.sum()
    lowest = (kept - 1.0 + m * kept) / (total * (m / 2 + n1))
    estimate = lowest
    if m > 0:
        expected = 0.0
        for order in range(n1, n2):
            expected += 1.0 / order
        start = max(lowest, kept * expected / total)
        constant = kept - 1.0
        estimate = _likelihood_root(x, constant, m, float(n1), start, lowest, steps, tolerance)
    bend = 0.0
    if m > 0:
        for i in range(kept):
            part = x[i] / (2 * np.sinh(x[i] * estimate / 2))
            bend += part * part
    return estimate, kept / (estimate * estimate) + m * bend


@compiled
def _spread(row):
    """Return S = sum over j <= 20 of log(r_20 / r_j) of one point's squared distances (21,)."""
    if row[0] == row[19]:
        return 0.0
    near, far = 1.0, 1.0
    for a in range(10):
        near *= row[a] / row[19]
        far *= row[a + 10] / row[19]
    if near > _SMALLEST:  # then `far` is, too
        return -0.5 * np.log(near * far)
    total = 0.0
    for a in range(20):
        total += 0.5 * np.log(row[19] / row[a])
    return total


@compiled
def spreads(squared):
    """Return the mean of 1 / S_i and the sum of S_i = sum over j <= 20 of log(r_20 / r_j).

    squared: (n, 21) float64 squared distances, ascending and positive.
    """
    n, inverse, total = len(squared), 0.0, 0.0
    for i in range(n):
        spread = _spread(squared[i])
        inverse += 1 / spread
        total += spread
    return inverse / n, total


@compiled
def mind_ml_root(x, steps, tolerance):
    """Return the root of MiND_ML's score from x = log(r_21 / r_1) (n,)."""
    n = len(x)
    total, expected = x.sum(), 0.0
    if not total > 0:
        return np.nan
    for order in range(1, 21):
        expected += 1.0 / order
    lowest = 20.0 * n / (total * 10.5)
    start = max(lowest, n * expected / total)
    return _likelihood_root(x, float(n), 19.0, 1.0, start, lowest, steps, tolerance)
