"""Compiled loops over one cloud on a CPU (Numba): what takes torch several passes takes one here.

They release the interpreter's lock, so that clouds run on threads side by side. No distance on a
GPU or in the float64 reference comes from here.

Numba keeps compiled code on disk. Two processes that save a kernel at the same moment, for
arguments of different types, can leave the code of one under the name of the other; so every kernel
that is called from outside gets arguments of one type only (a test holds that).
"""

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

logger = logging.getLogger(__name__)

_FAST = {"reassoc", "contract", "nsz", "arcp"}  # sums may be vectorised; infinities stay


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile at the first call; keep the code on disk where there is a place for it."""
    options = {"nogil": True, "fastmath": _FAST, "error_model": "numpy"}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError as error:  # neither this folder nor the user's cache can be written
        logger.info("%s is compiled by every process: %s", function.__name__, error)
        return njit(**options)(function)


FAR = np.float32(3e38)
"""A squared distance that is no neighbour's."""

_GROUPS = 64  # columns of a row are dealt into this many groups by their remainder
_PANEL = 16  # rows that are mirrored at once: a cache line of each column
_SLACK = 2  # entries above k that a threshold may let pass before it is good enough
_BISECTIONS = 24


@_compiled
def mean_of(x, left_out, sums):
    """Write the mean (D,) float64 of the points (n, D) that are not left out into `sums`."""
    n, D = x.shape
    sums[:] = 0.0
    count = 0
    for i in range(n):
        if not left_out[i]:
            count += 1
            for d in range(D):
                sums[d] += x[i, d]
    for d in range(D):
        sums[d] /= count


@_compiled
def norms_about(x, centre, norms):
    """Write the distances (n,) float64 of the points (n, D) from a centre (D,); return the median.

    An infinite or undefined distance makes the median NaN.
    """
    n, D = x.shape
    for i in range(n):
        total = 0.0
        for d in range(D):
            difference = x[i, d] - centre[d]
            total += difference * difference
        norms[i] = np.sqrt(total)
    return np.median(norms) if np.isfinite(norms).all() else np.nan


@_compiled
def subtract(x, centre, left_out, rest, share):
    """Write points (n, D) less a centre (D,) into `rest`, zero where they are left out.

    `share` (D,) receives how much of the points' squared norms each dimension holds, every point
    counting alike; all float32.
    """
    n, D = x.shape
    share[:] = 0.0
    for i in range(n):
        norm = np.float32(0.0)
        for d in range(D):
            value = x[i, d] - centre[d]
            rest[i, d] = value
            norm += value * value
        if left_out[i]:
            rest[i, :] = 0.0
        elif norm > 0:
            weight = np.float32(1.0) / norm
            for d in range(D):
                share[d] += rest[i, d] * rest[i, d] * weight


@_compiled
def _halve(source, target, half):
    for c in range(half):
        one, other = source[c], source[c + half]
        target[c] = other if other < one else one


@_compiled
def _threshold(minima, k):
    """Return a value that at least k of the first 64 entries, and hardly more, do not exceed."""
    low, high = minima[0], minima[0]
    for c in range(_GROUPS):
        low = min(low, minima[c])
        high = max(high, minima[c])
    for _ in range(_BISECTIONS):
        middle = low + (high - low) * np.float32(0.5)
        count = np.int32(0)
        for c in range(_GROUPS):
            count += np.int32(minima[c] <= middle)
        if count < k:
            low = middle
        else:
            high = middle
            if count <= k + _SLACK:
                break
    return high


@_compiled
def _mark(values, threshold, marks):
    for j in range(len(marks)):
        marks[j] = np.uint8(values[j] <= threshold)


@_compiled
def _sort(values, places, count):
    """Sort the first `count` values, and their places with them, by insertion."""
    for a in range(1, count):
        value, place, b = values[a], places[a], a - 1
        while b >= 0 and values[b] > value:
            values[b + 1], places[b + 1] = values[b], places[b]
            b -= 1
        values[b + 1], places[b + 1] = value, place


@_compiled
def _panel(product, first, stop, panel):
    """Copy the rows from `first` to `stop` of a symmetric matrix whose upper half is given."""
    n = len(product)
    for j in range(first):
        row = product[j]
        if stop - first == _PANEL:  # a loop of known length becomes straight code
            for r in range(_PANEL):
                panel[r, j] = row[first + r]
        else:
            for r in range(stop - first):
                panel[r, j] = row[first + r]
    for r in range(first, stop):
        for j in range(first, r):
            panel[r - first, j] = product[j, r]
        panel[r - first, r:n] = product[r, r:]


@_compiled
def _select(values, k, minima, marks, words, near, places):
    """Sort the k smallest of `values` (a power of two of them, >= 128) to the front of `near`.

    They are dealt into 64 groups. The k-th smallest of the groups' minima bounds the k-th smallest
    value from above, and only a few more than k values lie below it.
    """
    half = len(values) // 2
    _halve(values, minima, half)
    while half > _GROUPS:
        half //= 2
        _halve(minima, minima, half)
    _mark(values, _threshold(minima, k), marks)
    count = 0
    for w in range(len(words)):
        if words[w] != 0:
            for j in range(8 * w, 8 * w + 8):
                near[count], places[count] = values[j], j
                count += np.int64(marks[j])
    _sort(near, places, count)


@_compiled
def _to_values(row, norms, values):
    """Write norms - 2 row into `values`; return the sum of the squares of the row."""
    squares = np.float32(0.0)
    for j in range(len(norms)):
        squares += row[j] * row[j]
        values[j] = norms[j] - np.float32(2.0) * row[j]
    return squares


@_compiled
def nearest(product, norms, outliers, times, window, k, found, index):
    """Select each point's k smallest squared distances, less its own squared norm.

    Args:
        product: (n, n) float32 inner products, of which the upper half is read.
        norms: (n,) float32 squared norms, `FAR` for points that are nobody's neighbour.
        outliers: (8 or 0, n) float32 coordinates whose differences are added.
        times: (n,) int64 places in time, ascending.
        window: neighbours at most this many places away in time are left out.
        k: at most n - 1 and 64.
        found, index: (n, k) float32 and int32, ascending; written.

    Returns:
        Sum of the squares of all products.
    """
    n = len(norms)
    padded = 2 * _GROUPS
    while padded < n:
        padded *= 2
    values = np.full(padded, FAR, np.float32)
    panel = np.empty((_PANEL, n + _PANEL), np.float32)  # not a power of two apart
    minima, marks = np.empty(padded // 2, np.float32), np.empty(padded, np.uint8)
    near, places = np.empty(padded + 1, np.float32), np.empty(padded + 1, np.int32)
    energy = 0.0
    for i in range(n):
        if i % _PANEL == 0:
            _panel(product, i, min(i + _PANEL, n), panel)
        row = panel[i % _PANEL]
        energy += _to_values(row, norms, values)
        for o in range(len(outliers)):
            here, others = outliers[o, i], outliers[o]
            for j in range(n):
                difference = others[j] - here
                values[j] += difference * difference
        for step in (-1, 1):
            j = i
            while 0 <= j < n and abs(times[j] - times[i]) <= window:
                values[j] = FAR
                j += step
        _select(values, k, minima, marks, marks.view(np.uint64), near, places)
        found[i], index[i] = near[:k], places[:k]
    return energy


@_compiled
def _squared_difference(one, other):
    total = 0.0
    for d in range(len(one)):
        difference = np.float64(one[d]) - np.float64(other[d])
        total += difference * difference
    return total


@_compiled
def settle(
    x,
    norms,
    left_out,
    found,
    index,
    n_kept,
    error,
    tolerance,
    spread_factor,
    everything,
    out,
    out_index,
):
    """Turn candidates into squared distances, by differences where the product is in doubt.

    The two nearest are always computed again, a pair where its possible error exceeds `tolerance`
    of it, and all k candidates of a point where that holds for the last one kept, or where its
    distances are so alike that the error is not small against their spread. The product has then
    to prove that no other point is nearer.

    Args:
        x: (n, D) float32 points as given.
        norms: (n,) float32 squared norms of what the product was taken of.
        left_out: (n,) bool, points without neighbours.
        found, index: (n, k) from `nearest`.
        n_kept: neighbours to return of each point, at most k.
        error: possible error of a squared distance, over norm and distance.
        tolerance: of one squared distance, relative.
        spread_factor: times the spread is the least that a possible error must be small against.
        everything: compute all candidates of all points again.
        out, out_index: (n, n_kept) float64 and int64; written.

    Returns:
        Points (n,) bool whose candidates are not proven, how many pairs were in doubt, and the
        predicted relative error of the sum of log(r_20 / r_j) over all points.
    """
    n, k = found.shape
    unproven = np.zeros(n, np.bool_)
    near, places = np.empty(k, np.float64), np.empty(k, np.int64)
    n_doubts, variance = 0, 0.0
    for i in range(n):
        if left_out[i]:
            continue
        for a in range(k):
            near[a], places[a] = np.float64(norms[i]) + np.float64(found[i, a]), index[i, a]
        possible = error * (norms[i] + near[k - 1])
        bound = near[k - 1] - possible
        last = near[n_kept - 1]
        spread = 0.0
        for a in range(n_kept):
            spread += 1 - near[a] / last  # less than the sum of log(last / near)
        wide = tolerance * last * min(1.0, spread_factor * spread)
        open_set = everything or not possible <= wide
        for a in range(k):
            doubt = open_set or (a < n_kept and possible > tolerance * near[a])
            if doubt or a < 2:
                near[a] = _squared_difference(x[i], x[places[a]])
                n_doubts += np.int64(doubt)
        if not open_set:
            relative = possible / (last * max(spread, 1e-12))
            variance += relative * relative
        _sort(near, places, k if open_set else n_kept)
        unproven[i] = open_set and k < n - 1 and not near[n_kept - 1] <= bound
        out[i], out_index[i] = near[:n_kept], places[:n_kept]
    return unproven, n_doubts, np.sqrt(variance) / n


@_compiled
def distances_from(x, rows, squared):
    """Write squared distances (r, n) float64 of the named rows from all points (n, D)."""
    for r in range(len(rows)):
        for j in range(len(x)):
            squared[r, j] = _squared_difference(x[rows[r]], x[j])


@_compiled
def row_hashes(words, factors, hashes):
    """Write a hash (n,) int64 of each row of words (n, W) int64; equal rows have equal ones.

    As many of its words count as there are factors (w,).
    """
    for i in range(len(words)):
        total = np.int64(0)
        for w in range(len(factors)):
            total += words[i, w] * factors[w]
        hashes[i] = total


@_compiled
def likelihood_root(x, constant, m, weight, d, lowest, steps, tolerance):
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


@_compiled
def scatter_times(x, vector, result):
    """Write X'Xv (D,) of points (n, D) into `result`, reading each point once; float32."""
    n, D = x.shape
    result[:] = 0.0
    for i in range(n):
        inner = np.float32(0.0)
        for d in range(D):
            inner += x[i, d] * vector[d]
        for d in range(D):
            result[d] += inner * x[i, d]
