"""The nearest points of every point: selected from a product, settled by differences."""

import numpy as np

from terse.dimension.kernels.compiled import compiled

FAR = np.float32(3e38)
"""A squared distance that is no neighbour's."""

_GROUPS = 64  # columns of a row are dealt into this many groups by their remainder
_PANEL = 16  # rows that are mirrored at once: a cache line of each column
_SLACK = 2  # entries above k that a threshold may let pass before it is good enough
_BISECTIONS = 24
_RANKED = 32  # values that are sorted by their ranks
_BYTE_NUMBERS = np.uint64(0x0001020304050607)
_BLOCK = 128  # coordinates that are summed in float32
_TINY = 1e-28  # squares below it may have lost digits in float32


@compiled
def _halve(source, target, half):
    for c in range(half):
        one, other = source[c], source[c + half]
        target[c] = other if other < one else one


@compiled
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


@compiled
def _mark(values, threshold, marks):
    for j in range(len(marks)):
        marks[j] = np.uint8(values[j] <= threshold)


@compiled
def _sort(values, places, count):
    """Sort the first `count` values, and their places with them, by insertion."""
    for a in range(1, count):
        value, place, b = values[a], places[a], a - 1
        while b >= 0 and values[b] > value:
            values[b + 1], places[b + 1] = values[b], places[b]
            b -= 1
        values[b + 1], places[b + 1] = value, place


@compiled
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


@compiled
def _gather(values, marks, near, places):
    """Copy the marked values and their places to the front of `near`; return how many they are.

    Eight marks are looked at as one number. Its lowest byte that is not zero is isolated, and a
    product moves the number of that byte to the top.
    """
    words, count = marks.view(np.uint64), 0
    for w in range(len(words)):
        word = words[w]
        while word != np.uint64(0):
            lowest = word & (~word + np.uint64(1))
            j = 8 * w + np.int64((lowest * _BYTE_NUMBERS) >> np.uint64(56))
            near[count], places[count] = values[j], j
            count += 1
            word ^= lowest
    return count


@compiled
def _rank(near, places, count, values, index):
    """Write the first `count` <= 32 values in ascending order; return whether no two are equal.

    Each goes to the place that counts the smaller ones: no branch is guessed wrong, as in a sort.
    """
    for a in range(count, _RANKED):
        near[a] = FAR
    total = 0
    for a in range(count):
        rank = np.int32(0)
        for c in range(_RANKED):
            rank += np.int32(near[c] < near[a])
        values[rank], index[rank] = near[a], places[a]
        total += rank
    return total == count * (count - 1) // 2


@compiled
def _select(values, k, minima, marks, near, places, found, index):
    """Write the k smallest of `values` (a power of two of them, >= 128) and their places (k,).

    They are dealt into 64 groups. The k-th smallest of the groups' minima bounds the k-th smallest
    value from above, and only a few more than k values lie below it.
    """
    half = len(values) // 2
    _halve(values, minima, half)
    while half > _GROUPS:
        half //= 2
        _halve(minima, minima, half)
    _mark(values, _threshold(minima, k), marks)
    count = _gather(values, marks, near[0], places[0])
    if count <= _RANKED and _rank(near[0], places[0], count, near[1], places[1]):
        found[:], index[:] = near[1, :k], places[1, :k]
    else:
        _sort(near[0], places[0], count)
        found[:], index[:] = near[0, :k], places[0, :k]


@compiled
def _to_values(row, norms, values):
    """Write norms - 2 row into `values`; return the sum of the squares of the row."""
    squares = np.float32(0.0)
    for j in range(len(norms)):
        squares += row[j] * row[j]
        values[j] = norms[j] - np.float32(2.0) * row[j]
    return squares


@compiled
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
    # zeros: where values are not finite fewer than k are found, and places must be some anyway
    near, places = np.zeros((2, padded), np.float32), np.zeros((2, padded), np.int32)
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
        _select(values, k, minima, marks, near, places, found[i], index[i])
    return energy


@compiled
def _squared_difference(one, other):
    total = 0.0
    for d in range(len(one)):
        difference = np.float64(one[d]) - np.float64(other[d])
        total += difference * difference
    return total


@compiled
def _short_difference(one, other):
    """Return a squared difference in float32, summed in blocks; in float64 where it is tiny."""
    total = 0.0
    for start in range(0, len(one), _BLOCK):
        part = np.float32(0.0)
        for d in range(start, min(start + _BLOCK, len(one))):
            difference = one[d] - other[d]
            part += difference * difference
        total += np.float64(part)
    return total if total > _TINY else _squared_difference(one, other)


@compiled
def _shape(near, norm, n_kept, error):
    """Return the possible error of candidates, the last distance kept, and their spread."""
    possible = error * (norm + near[len(near) - 1])
    last = near[n_kept - 1]
    return possible, last, n_kept - near[:n_kept].sum() / last


@compiled
def _limit(relative, accepted):
    """Return the largest error of a point that may stay.

    The errors up to it are together at most `accepted`, as the error of a mean over all points.
    """
    total = (relative * relative).sum()
    allowed = accepted * accepted * len(relative) * len(relative)
    if total <= allowed:
        return np.inf
    ordered = np.sort(relative)
    a = len(ordered)
    while a > 0 and total > allowed:
        a -= 1
        total -= ordered[a] * ordered[a]
    return ordered[a - 1] if a > 0 else -1.0


@compiled
def _candidates(norm, found, near):
    for a in range(len(near)):
        near[a] = np.float64(norm) + np.float64(found[a])


@compiled
def _errors(norms, left_out, found, n_kept, error, tolerance, spread_factor):
    """Return the possible relative error (n,) of each point's spread; -1 where it is too large."""
    errors = np.zeros(len(norms), np.float64)
    near = np.empty(found.shape[1], np.float64)
    for i in range(len(norms)):
        if not left_out[i]:
            _candidates(norms[i], found[i], near)
            possible, last, spread = _shape(near, norms[i], n_kept, error)
            narrow = possible <= tolerance * last * min(1.0, spread_factor * spread)
            errors[i] = possible / (last * spread) if narrow else -1.0  # also where it is NaN
    return errors


@compiled
def settle(
    x, norms, left_out, found, index, n_kept,
    error, tolerance, spread_factor, accepted, out, out_index,
):  # fmt: skip
    """Turn candidates into squared distances, by differences where the product is in doubt.

    A pair is computed again where its possible error exceeds `tolerance` of it. All k candidates of
    a point are, where that holds for the last one kept, or where its distances are so alike that
    the error is not small against their spread; the product has then to prove that no other point
    is nearer. So are the points of largest error, until the others' makes no more than `accepted`
    of the mean of all. The two nearest always come from differences in float64.

    Args:
        x: (n, D) float32 points as given.
        norms: (n,) float32 squared norms of what the product was taken of.
        left_out: (n,) bool, points without neighbours.
        found, index: (n, k) from `nearest`.
        n_kept: neighbours to return of each point, at most k.
        error: possible error of a squared distance, over norm and distance.
        tolerance: of one squared distance, relative.
        spread_factor: times the spread is the least that a possible error must be small against.
        accepted: predicted relative error in the mean of the sum of log(r_20 / r_j).
        out, out_index: (n, n_kept) float64 and int64; written.

    Returns:
        Points (n,) bool whose candidates are not proven, and how many pairs were in doubt.
    """
    n, k = found.shape
    unproven = np.zeros(n, np.bool_)
    near, places = np.empty(k, np.float64), np.empty(k, np.int64)
    errors = _errors(norms, left_out, found, n_kept, error, tolerance, spread_factor)
    limit, n_doubts = _limit(np.maximum(errors, 0.0), accepted), 0
    for i in range(n):
        if left_out[i]:
            continue
        _candidates(norms[i], found[i], near)
        places[:] = index[i]
        possible = error * (norms[i] + near[k - 1])
        bound = near[k - 1] - possible
        wide = errors[i] < 0
        open_set = wide or errors[i] > limit
        for a in range(k):
            if open_set or (a < n_kept and possible > tolerance * near[a]):
                n_doubts += 1
                if wide:
                    near[a] = _squared_difference(x[i], x[places[a]])
                else:
                    near[a] = _short_difference(x[i], x[places[a]])
        _sort(near, places, k if open_set else n_kept)
        for a in range(2):
            near[a] = _squared_difference(x[i], x[places[a]])
        _sort(near, places, n_kept)
        unproven[i] = open_set and k < n - 1 and not near[n_kept - 1] <= bound
        out[i], out_index[i] = near[:n_kept], places[:n_kept]
    return unproven, n_doubts


@compiled
def _insert(values, places, value, place):
    """Put a value below the last one into ascending values, whose last one falls out."""
    b = len(values) - 2
    while b >= 0 and values[b] > value:
        values[b + 1], places[b + 1] = values[b], places[b]
        b -= 1
    values[b + 1], places[b + 1] = value, place


@compiled
def search(x, rows, left_out, times, window, squared, index):
    """Find the nearest points of some rows among all points, by differences in float64.

    Args:
        x: (n, D) float32 points.
        rows: (n,) bool, whose neighbours are looked for.
        left_out: (n,) bool, points that are nobody's neighbour.
        times, window: as in `nearest`.
        squared, index: (n, k) float64 and int64; of these rows they are written.
    """
    for i in range(len(x)):
        if rows[i]:
            squared[i, :] = np.inf
            for j in range(len(x)):
                if not left_out[j] and abs(times[j] - times[i]) > window:
                    distance = _squared_difference(x[i], x[j])
                    if distance < squared[i, -1]:
                        _insert(squared[i], index[i], distance, j)


@compiled
def add_points(x, added, times, window, squared, index):
    """Add points to neighbours that were found without them, by differences in float64.

    Args:
        x: (n, D) float32 points.
        added: (n,) bool, those that were left out.
        times, window: as in `nearest`.
        squared, index: (n, k) float64 and int64, ascending; the rows of added points are written,
            the others changed where one of these is nearer.
    """
    squared[added] = np.inf
    for i in range(len(x)):
        if added[i]:
            for j in range(len(x)):
                if abs(times[j] - times[i]) > window:
                    distance = _squared_difference(x[i], x[j])
                    if distance < squared[i, -1]:
                        _insert(squared[i], index[i], distance, j)
                    if not added[j] and distance < squared[j, -1]:
                        _insert(squared[j], index[j], distance, i)


@compiled
def distances_from(x, rows, squared):
    """Write squared distances (r, n) float64 of the named rows from all points (n, D)."""
    for r in range(len(rows)):
        for j in range(len(x)):
            squared[r, j] = _squared_difference(x[rows[r]], x[j])
