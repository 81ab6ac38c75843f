"""Passes over the points of one cloud: mean, norms, centring, hashes."""

import numpy as np

from terse.dimension.kernels.compiled import compiled


@compiled
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


@compiled
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


@compiled
def subtract(x, centre, left_out, rest, share, dims):
    """Write points (n, D) less a centre (D,) into `rest`, zero where they are left out.

    `share` (D,) receives how much of the points' squared norms each dimension holds, every point
    counting alike, and `dims` the positions of its largest values; all else is float32. Returns
    the sum of these values.
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
    left, total = share.copy(), 0.0
    for a in range(len(dims)):
        largest = 0
        for d in range(1, D):
            if left[d] > left[largest]:
                largest = d
        dims[a] = largest
        total += left[largest]
        left[largest] = -1.0
    return total


@compiled
def row_hashes(words, factors, hashes):
    """Write a hash (n,) int64 of each row of words (n, W) int64; equal rows have equal ones.

    As many of its words count as there are factors (w,).
    """
    for i in range(len(words)):
        total = np.int64(0)
        for w in range(len(factors)):
            total += words[i, w] * factors[w]
        hashes[i] = total
