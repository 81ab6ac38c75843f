"""The compiled estimators of a CPU against the same formulas in torch, which a GPU takes."""

import numpy as np
import pytest
import torch

from terse.dimension import kernels
from terse.dimension.estimators import all_from_neighbours, gride, spread_of
from terse.dimension.names import GRIDE

NAMES = ("mle", "mle_inv", "mle_lb", "twoNN_f10", "twoNN_mle", "mind_ml_uncapped", *GRIDE)


def of_logs(names: tuple[str, ...], logs: torch.Tensor) -> tuple[dict, dict]:
    """Return estimates and errors from logarithms (B, n, 21) of distances."""
    return all_from_neighbours(names, (2 * logs).exp(), None)


def random_logs(n: int, digits: int, seed: int) -> torch.Tensor:
    """Return logarithms (2, n, 21) of ascending distances, tied where digits are few."""
    random = np.random.default_rng(seed)
    steps = np.round(random.exponential(0.05, (2, n, 21)), digits)
    return torch.from_numpy(np.cumsum(steps, -1))


@pytest.mark.parametrize("n", [22, 23, 700])
@pytest.mark.parametrize("digits", [15, 2])
def test_gride_is_the_same_with_and_without_ties(n: int, digits: int) -> None:
    logs = random_logs(n, digits, n)
    values, errors = of_logs(NAMES, logs)
    for name in GRIDE:
        scale = int(name.removeprefix("gride_"))
        estimate, error = gride(logs, scale // 2, scale)
        torch.testing.assert_close(values[name], estimate, rtol=1e-9, atol=0)
        torch.testing.assert_close(errors[name], error, rtol=1e-9, atol=0)


def test_a_ratio_far_beyond_the_others_is_left_out_of_gride() -> None:
    logs = random_logs(300, 15, 0)
    logs[:, 7, 1:] += 12
    values, _ = of_logs(("gride_2",), logs)
    kept = torch.cat([logs[:, :7], logs[:, 8:]], 1)
    without, _ = gride(kept, 1, 2)
    torch.testing.assert_close(values["gride_2"], without, rtol=1e-9, atol=0)


def test_where_all_distances_are_alike_nothing_is_defined() -> None:
    logs = torch.linspace(0.1, 0.7, 40, dtype=torch.float64)[None, :, None].expand(1, 40, 21)
    values, _ = of_logs(NAMES, logs)
    assert not any(bool(value.isfinite().any()) for value in values.values())
    assert bool(gride(logs, 1, 2)[0].isnan().all())


def test_the_maximum_likelihood_estimates_are_means_of_local_ones() -> None:
    logs = random_logs(300, 15, 1)
    values, _ = of_logs(NAMES, logs)
    spread = torch.from_numpy(np.stack([spread_of(np.exp(2 * one)) for one in logs.numpy()]))
    torch.testing.assert_close(values["mle"], (19 / spread).mean(1))
    torch.testing.assert_close(values["mle_inv"], 19 / spread.mean(1))
    torch.testing.assert_close(values["mle_lb"], (18 / spread).mean(1))


def test_mind_ml_is_a_root_of_its_score() -> None:
    logs = random_logs(300, 15, 2)
    values, _ = of_logs(("mind_ml_uncapped",), logs)
    near = logs[..., 0] - logs[..., 20]  # (2, n)
    for d, x in zip(values["mind_ml_uncapped"], near, strict=True):
        score = len(x) / d + x.sum() - 19 * (x / torch.expm1(-d * x)).sum()
        assert abs(float(score)) < 1e-6 * float(x.abs().sum())


@pytest.mark.parametrize("span", [1e-3, 30.0, 300.0])
def test_spreads_of_any_range_are_sums_of_logarithms(span: float) -> None:
    """Ratios are multiplied before the logarithm, as long as the product does not vanish."""
    random = np.random.default_rng(0)
    logs = np.sort(random.uniform(-span, 0, (50, 21)), 1)
    true = (logs[:, 19:20] - logs[:, :20]).sum(1)
    inverse, total = kernels.spreads(np.exp(2 * logs))
    assert inverse == pytest.approx((1 / true).mean(), rel=1e-12)
    assert total == pytest.approx(true.sum(), rel=1e-12)
