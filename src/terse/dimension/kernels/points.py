"""Passes over the points of one cloud: mean, norms, centring."""

import numpy as np

from terse.dimension.kernels.compiled import compiled


@compiled
def about_mean(x, left_out, centre, norms):
    """Write the mean (D,) of points (n, D) and their distances (n,) from it; float64.

    Points that are left out (n,) do not count in the mean. Returns the median of the distances and
    the largest one; both are NaN where a distance is infinite or undefined.
    """
    n, D = x.shape
    centre[:] = 0.0
    count = 0
    for i in range(n):
        if not left_out[i]:
            count += 1
            for d in range(D):
                centre[d] += x[i, d]
    for d in range(D):
        centre[d] /= count
    for i in range(n):
        total = 0.0
        for d in range(D):
            difference = x[i, d] - centre[d]
            total += difference * difference
        norms[i] = np.sqrt(total)
    if not np.isfinite(norms).all():
        return np.nan, np.nan
    return np.median(norms), norms.max()


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
