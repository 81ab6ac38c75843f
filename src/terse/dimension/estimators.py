"""The estimators, from logarithms of neighbour distances; every sum is in float64.

References: Levina & Bickel 2004 (`mle`), MacKay & Ghahramani 2005 (`mle_inv`,
http://www.inference.org.uk/mackay/dimension/), Facco et al. 2017 (`twoNN`,
https://doi.org/10.1038/s41598-017-11873-y), Rozza et al. 2012 (`mind_ml`,
https://doi.org/10.1007/s10994-012-5294-7), Denti et al. 2022 (`gride`,
https://doi.org/10.1038/s41598-022-20991-1).
"""

from functools import lru_cache

import torch
from torch import Tensor

from terse.dimension import kernels
from terse.dimension.names import GRIDE_SCALES, discarded_fraction

MIND_ML_CAP = 20.0
"""Upper end of `mind_ml`, as ID_scaling had it."""

TWONN_MLE_DISCARD = 0.1
"""Fraction of largest ratios that `twoNN_mle` censors, scikit-dimension's default."""

_MIND_ML = {"mind_ml", "mind_ml_uncapped"}
_NEWTON_STEPS = 60
_NEWTON_TOLERANCE = 1e-9  # of a step; the error left after it is about its square


def log_spread(logs: Tensor) -> Tensor:
    """Return S_i = sum over j <= 20 of log(r_20 / r_j), (..., n), from logs (..., n, 21)."""
    return (logs[..., 19:20] - logs[..., :20]).sum(-1)  # exactly zero where all are equal


def local_ids(logs: Tensor) -> Tensor:
    """Return each point's maximum likelihood dimension 19 / S_i, (..., n)."""
    return 19 / log_spread(logs)


def all_from_neighbours(
    names: list[str], logs: Tensor, compat: str | None
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the estimates (B,) by name, and the standard errors (B,) of those that have one.

    Args:
        names: expanded estimator names that need neighbour distances only.
        logs: (B, n, 21) float64, log r_1 to log r_21 of every point.
        compat: None, or "skdim-0.3.4" for that version's TwoNN.
    """
    if logs.device.type == "cpu":
        return _by_kernels(names, logs, compat)
    n = logs.shape[-2]
    spread = log_spread(logs)  # (B, n)
    ratios = (logs[..., 1] - logs[..., 0]).sort(-1).values  # (B, n)
    values = _of_spreads(names, (1 / spread).mean(-1), spread.sum(-1), n)
    values |= _of_ratios(names, ratios, compat)
    if _MIND_ML & {*names}:
        root = _likelihood_root(logs[..., 20] - logs[..., 0], float(n), 19, 1)
        values |= _of_root(names, root)
    found = {scale: gride(logs, scale // 2, scale) for scale in _scales(names)}
    values |= {f"gride_{scale}": estimate for scale, (estimate, _) in found.items()}
    return values, {f"gride_{scale}": error for scale, (_, error) in found.items()}


def _by_kernels(
    names: list[str], logs: Tensor, compat: str | None
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the same on a CPU, where a compiled loop a cloud spares many short passes."""
    b, n = logs.shape[:2]
    scales, solve = _scales(names), (_NEWTON_STEPS, _NEWTON_TOLERANCE)
    ratios = logs.new_empty(b, n)
    found = []
    for one, sorted_ratios in zip(logs.contiguous().numpy(), ratios.numpy(), strict=True):
        row = [*kernels.spreads(one, sorted_ratios)]
        row.append(kernels.mind_ml_root(one, *solve) if _MIND_ML & {*names} else 0.0)
        for scale in scales:
            row.extend(kernels.gride(one, scale // 2, scale, *solve))
        found.append(row)
    inverse, total, root, *of_scales = logs.new_tensor(found).unbind(-1)  # (b,) each
    values = _of_spreads(names, inverse, total, n) | _of_ratios(names, ratios, compat)
    values |= _of_root(names, root)
    gride_names = [f"gride_{scale}" for scale in scales]
    values |= dict(zip(gride_names, of_scales[::2], strict=True))
    return values, {
        name: information.rsqrt()
        for name, information in zip(gride_names, of_scales[1::2], strict=True)
    }


def _scales(names: list[str]) -> list[int]:
    return [scale for scale in GRIDE_SCALES if f"gride_{scale}" in names]


def _of_spreads(names: list[str], inverse: Tensor, total: Tensor, n: int) -> dict[str, Tensor]:
    """Return the maximum likelihood estimates from the mean of 1 / S_i and the sum of S_i, (B,)."""
    values = {"mle": 19 * inverse, "mle_lb": 18 * inverse, "mle_inv": 19 * n / total}
    return {name: values[name] for name in values if name in names}


def _of_ratios(names: list[str], ratios: Tensor, compat: str | None) -> dict[str, Tensor]:
    """Return the TwoNN estimates from sorted log(r_2 / r_1) (B, n)."""
    values: dict[str, Tensor] = {}
    for name in names:
        fraction = discarded_fraction(name)
        if name == "twoNN_mle":
            values[name] = _twonn_mle(ratios, TWONN_MLE_DISCARD)
        elif fraction is not None:
            values[name] = _twonn(ratios, fraction, first=0 if compat else 1)
    return values


def _of_root(names: list[str], root: Tensor) -> dict[str, Tensor]:
    values = {"mind_ml": root.clamp(max=MIND_ML_CAP), "mind_ml_uncapped": root}
    return {name: values[name] for name in values if name in names}


def _twonn(ratios: Tensor, fraction: float, first: int) -> Tensor:
    """Return the slope through the origin of -log(1 - F) over sorted log(r_2 / r_1) (B, n)."""
    n = ratios.shape[-1]
    kept = int(n * (1 - fraction))
    x = ratios[..., :kept]
    y = _expected(n, kept, first).to(x)
    return (x * y).sum(-1) / x.square().sum(-1)


@lru_cache(maxsize=8)
def _expected(n: int, kept: int, first: int) -> Tensor:
    """Return -log(1 - i / n) (kept,) for the ranks i from `first` on."""
    return -torch.log1p(-torch.arange(first, first + kept, dtype=torch.float64) / n)


def _twonn_mle(ratios: Tensor, fraction: float) -> Tensor:
    """Return the unbiased rate of log(r_2 / r_1) (B, n) with the largest ones censored."""
    n = ratios.shape[-1]
    kept = int(n * (1 - fraction))
    total = ratios[..., :kept].sum(-1) + (n - kept) * ratios[..., kept - 1]
    return (kept - 1) / total


def gride(logs: Tensor, n1: int, n2: int) -> tuple[Tensor, Tensor]:
    """Return the GRIDE estimate at one scale and its error 1 / sqrt(information), (B,) each.

    As in DADApy and scikit-dimension, tied distances (mu = 1) are left out, and so are ratios
    above q50 + 20 (q95 - q50), which mark overlapping points.

    Args:
        logs: (B, n, >= n2) float64, log r_1 to log r_n2.
        n1, n2: orders of the nearer and the farther neighbour, n1 < n2.
    """
    x = logs[..., n2 - 1] - logs[..., n1 - 1]  # (B, n) log mu
    middle, high = _quantiles_of_ratios(x, (0.5, 0.95))
    keep = (x > 0) & (x.exp() < 20 * (high - middle) + middle)
    kept = keep.sum(-1)
    x = x.where(keep, 0.0)
    m = n2 - n1 - 1
    estimate = _likelihood_root(x, kept - 1.0 - m * (x.shape[-1] - kept), m, n1)
    half = x * estimate.unsqueeze(-1) / 2
    bend = torch.where(keep, x / (2 * torch.sinh(half)), 0.0).square().sum(-1)
    information = kept / estimate.square() + m * bend
    return estimate, information.rsqrt()


def _quantiles_of_ratios(x: Tensor, levels: tuple[float, ...]) -> list[Tensor]:
    """Return interpolated quantiles (B, 1) of exp(x), x (B, n), tied ones (x <= 0) left out."""
    ordered, n = x.sort(-1).values, x.shape[-1]
    positive = (x > 0).sum(-1, keepdim=True)  # (B, 1)
    found = []
    for level in levels:
        at = n - positive + level * (positive - 1).clamp_min(0)
        below = at.floor().clamp_max(n - 1)
        low = ordered.gather(-1, below.long()).exp()
        high = ordered.gather(-1, (below + 1).clamp_max(n - 1).long()).exp()
        found.append(low + (at - below) * (high - low))
    return found


def _likelihood_root(x: Tensor, constant: Tensor | float, m: int, weight: int) -> Tensor:
    """Return d > 0 (B,) where constant + m sum phi(d x) = weight d sum x, phi(y) = y/(e^y - 1).

    Both MiND_ML and GRIDE maximise a likelihood whose score, times d, has this form. Its left side
    minus its right is convex and decreasing, so a step of Newton's method ends below the root, from
    where the next ones climb and cannot overshoot. It starts where the mean of x = log(r_n2 / r_n1)
    would have it, (1/n1 + ... + 1/(n2 - 1)) / d, and stays above the root of the tangent at zero.
    NaN where no x is positive.
    """
    n = x.shape[-1]
    total = x.sum(-1)
    lowest = (constant + m * n) / (total * (m / 2 + weight))
    if m == 0:
        return lowest.where(total > 0, torch.nan)
    expected = sum(1 / order for order in range(weight, weight + m + 1))
    d = torch.maximum(lowest, n * expected / total)
    for _ in range(_NEWTON_STEPS):
        y = d.unsqueeze(-1) * x  # (B, n)
        phi = (y / torch.expm1(y)).masked_fill_(y <= 0, 1.0)
        value = constant + m * phi.sum(-1) - weight * d * total
        slope = m * (phi * (1 - phi - y)).sum(-1) / d - weight * total
        before, d = d, torch.maximum(lowest, d - value / slope)
        if not bool(((d - before).abs() > _NEWTON_TOLERANCE * d).any()):
            break
    return d.where(total > 0, torch.nan)
