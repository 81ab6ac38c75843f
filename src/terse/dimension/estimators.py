"""The estimators, from squared neighbour distances; every sum is in float64.

References: Levina & Bickel 2004 (`mle`), MacKay & Ghahramani 2005 (`mle_inv`,
http://www.inference.org.uk/mackay/dimension/), Facco et al. 2017 (`twoNN`,
https://doi.org/10.1038/s41598-017-11873-y), Rozza et al. 2012 (`mind_ml`,
https://doi.org/10.1007/s10994-012-5294-7), Denti et al. 2022 (`gride`,
https://doi.org/10.1038/s41598-022-20991-1).
"""

import math
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from terse.dimension import kernels
from terse.dimension.names import GRIDE_SCALES, discarded_fraction

MIND_ML_CAP = 20.0
"""Upper end of `mind_ml`, as ID_scaling had it."""

TWONN_MLE_DISCARD = 0.1
"""Fraction of largest ratios that `twoNN_mle` censors, scikit-dimension's default."""

Number = TypeVar("Number", float, Tensor)

_MLE = ("mle", "mle_lb", "mle_inv")
_MIND_ML = {"mind_ml", "mind_ml_uncapped"}
_NEWTON_STEPS = 60
_NEWTON_TOLERANCE = 1e-9  # of a step; the error left after it is about its square


class OfCloud(NamedTuple):
    """The estimates of one cloud by name, and the standard errors of those that have one."""

    values: dict[str, float]
    errors: dict[str, float]


def all_from_neighbours(
    names: tuple[str, ...], squared: Tensor, compat: str | None
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the estimates (B,) by name, and the standard errors (B,) of those that have one.

    Args:
        names: expanded estimator names; those that need more than neighbour distances are ignored.
        squared: (B, n, 21) float64, r_1 squared to r_21 squared of every point, all positive.
        compat: None, or "skdim-0.3.4" for that version's TwoNN.
    """
    if squared.device.type == "cpu":
        clouds = [of_cloud(names, one, compat) for one in squared.contiguous().numpy()]
        return _stacked([one.values for one in clouds]), _stacked([one.errors for one in clouds])
    n, logs = squared.shape[-2], squared.log() / 2
    spread = (logs[..., 19:20] - logs[..., :20]).sum(-1)  # (B, n), S_i as in `spread_of`
    ratios = (logs[..., 1] - logs[..., 0]).sort(-1).values  # (B, n)
    values = _of_spreads((1 / spread).mean(-1), spread.sum(-1), n)
    values |= _of_ratios(names, ratios, compat)
    if _MIND_ML & {*names}:
        root = _likelihood_root(logs[..., 20] - logs[..., 0], float(n), 19, 1)
        values |= {"mind_ml": root.clamp(max=MIND_ML_CAP), "mind_ml_uncapped": root}
    found = {scale: gride(logs, scale // 2, scale) for scale in _scales(names)}
    values |= {f"gride_{scale}": estimate for scale, (estimate, _) in found.items()}
    values = {name: value for name, value in values.items() if name in names}
    return values, {f"gride_{scale}": error for scale, (_, error) in found.items()}


def of_cloud(names: tuple[str, ...], squared: np.ndarray, compat: str | None) -> OfCloud:
    """Return the same of one cloud (n, 21) on a CPU, by compiled loops."""
    n, solve, x = len(squared), (_NEWTON_STEPS, _NEWTON_TOLERANCE), np.empty(len(squared))
    inverse, total = kernels.spreads(squared)
    values: dict[str, float] = dict.fromkeys(_MLE, math.nan)
    if total > 0:
        values = _of_spreads(inverse, total, n)
    if _MIND_ML & {*names}:
        kernels.log_ratios(squared, 1, 21, x)
        root = kernels.mind_ml_root(x, *solve)
        values |= {"mind_ml": min(root, MIND_ML_CAP), "mind_ml_uncapped": root}
    errors: dict[str, float] = {}
    for scale in _scales(names):
        kernels.log_ratios(squared, scale // 2, scale, x)
        x.sort()  # NumPy's, which is many times faster than Numba's
        estimate, information = kernels.gride(x, scale // 2, scale, *solve)
        values[f"gride_{scale}"] = estimate
        errors[f"gride_{scale}"] = 1 / math.sqrt(information) if information > 0 else math.nan
    kernels.log_ratios(squared, 1, 2, x)
    x.sort()
    for name in names:
        fraction = discarded_fraction(name)
        if fraction is not None:
            kept, first = int(n * (1 - fraction)), 0 if compat else 1
            values[name] = kernels.twonn(x[:kept], n, first)
        elif name == "twoNN_mle":
            kept, total = _censored(x, TWONN_MLE_DISCARD)
            values[name] = (kept - 1) / float(total) if total > 0 else math.nan
    return OfCloud({name: value for name, value in values.items() if name in names}, errors)


def _stacked(found: list[dict[str, float]]) -> dict[str, Tensor]:
    """Return the numbers (B,) of B clouds by name."""
    columns = {name: [one[name] for one in found] for name in found[0]}
    return {name: torch.tensor(column, dtype=torch.float64) for name, column in columns.items()}


def spread_of(squared: np.ndarray) -> np.ndarray:
    """Return S_i = sum over j <= 20 of log(r_20 / r_j), (n,), from squared distances (n, 21).

    19 / S_i is a point's maximum likelihood dimension.
    """
    return np.log(squared[:, 19:20] / squared[:, :20]).sum(-1) / 2  # zero where all are equal


@lru_cache(maxsize=8)
def _scales(names: tuple[str, ...]) -> tuple[int, ...]:
    return tuple(scale for scale in GRIDE_SCALES if f"gride_{scale}" in names)


def _of_spreads(inverse: Number, total: Number, n: int) -> dict[str, Number]:
    """Return the maximum likelihood estimates from the mean of 1 / S_i and the sum of S_i."""
    return {"mle": 19 * inverse, "mle_lb": 18 * inverse, "mle_inv": 19 * n / total}


def _of_ratios(names: tuple[str, ...], ratios: Tensor, compat: str | None) -> dict[str, Tensor]:
    """Return the TwoNN estimates from sorted log(r_2 / r_1) (B, n)."""
    values: dict[str, Tensor] = {}
    for name in names:
        fraction = discarded_fraction(name)
        if name == "twoNN_mle":
            kept, total = _censored(ratios, TWONN_MLE_DISCARD)
            values[name] = (kept - 1) / total
        elif fraction is not None:
            values[name] = _twonn(ratios, fraction, first=0 if compat else 1)
    return values


def _twonn(ratios: Tensor, fraction: float, first: int) -> Tensor:
    """Return the slope through the origin of -log(1 - F) over sorted log(r_2 / r_1) (B, n)."""
    n = ratios.shape[-1]
    kept = int(n * (1 - fraction))
    x = ratios[..., :kept]
    ranks = torch.arange(first, first + kept, dtype=x.dtype, device=x.device)
    return (x * -torch.log1p(-ranks / n)).sum(-1) / x.square().sum(-1)


def _censored(ratios: Any, fraction: float) -> tuple[int, Any]:
    """Return how many of sorted log(r_2 / r_1) (..., n) are kept, and the sum with the others cut.

    Their unbiased rate is the former less one over the latter.
    """
    n = ratios.shape[-1]
    kept = int(n * (1 - fraction))
    return kept, ratios[..., :kept].sum(-1) + (n - kept) * ratios[..., kept - 1]


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
