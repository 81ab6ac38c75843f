"""Estimates of one cloud from the logarithms of its neighbour distances."""

import numpy as np

from terse.dimension.kernels.compiled import compiled


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
def gride(logs, n1, n2, steps, tolerance):
    """Return the GRIDE estimate and its information from logs (n, k), as `estimators.gride` does.

    NaN where no ratio is above one.
    """
    n = len(logs)
    x = logs[:, n2 - 1] - logs[:, n1 - 1]
    x.sort()
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
def spreads(logs, ratios):
    """Return the mean of 1 / S_i and the sum of S_i = sum over j <= 20 of L_20 - L_j.

    Args:
        logs: (n, 21) float64, L.
        ratios: (n,) float64; receives L_2 - L_1 in ascending order.
    """
    n, inverse, total = len(logs), 0.0, 0.0
    for i in range(n):
        spread = 0.0
        for a in range(20):
            # the comparison keeps the compiler from summing first: exactly zero if all are equal
            spread += max(logs[i, 19] - logs[i, a], 0.0)
        inverse += 1 / spread
        total += spread
        ratios[i] = logs[i, 1] - logs[i, 0]
    ratios.sort()
    return inverse / n, total


@compiled
def mind_ml_root(logs, steps, tolerance):
    """Return the root of MiND_ML's score from logs (n, 21), as `estimators._likelihood_root`."""
    n = len(logs)
    x = logs[:, 20] - logs[:, 0]
    total, expected = x.sum(), 0.0
    if not total > 0:
        return np.nan
    for order in range(1, 21):
        expected += 1.0 / order
    lowest = 20.0 * n / (total * 10.5)
    start = max(lowest, n * expected / total)
    return _likelihood_root(x, float(n), 19.0, 1.0, start, lowest, steps, tolerance)
