"""Confidence intervals of proportions."""

import math


def wilson(hits: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Return Wilson's interval of the proportion hits / n, 95 % by default.

    Wilson 1927, https://doi.org/10.1080/01621459.1927.10502953; unlike the normal interval it does
    not collapse at 0 and 1.
    """
    share = hits / n
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return 0.0 if hits == 0 else centre - half, 1.0 if hits == n else centre + half
