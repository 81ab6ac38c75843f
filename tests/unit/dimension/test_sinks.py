"""A few heavy points: counted, flagged, and left out of estimates that stand beside the others."""

import math

import numpy as np
import pytest
import torch

from terse.dimension import decimation_curve, estimate
from terse.dimension.sinks import heavy_points

NAMES = ["mle", "mle_inv", "mle_lb", "mind_ml", "mind_ml_uncapped", "twoNN_f10", "twoNN_mle",
         "gride", "participation_ratio"]  # fmt: skip


def manifold(n: int = 400, dimension: int = 6, D: int = 40, seed: int = 0) -> np.ndarray:
    """Return points (n, D) on a curved manifold, float32."""
    random = np.random.default_rng(seed)
    flat = random.standard_normal((n, dimension))
    curved = np.concatenate([flat, np.sin(flat), flat**2 / 4], 1)
    return (curved @ random.standard_normal((curved.shape[1], D))).astype(np.float32)


def planted(
    points: np.ndarray, n: int, medians: float, where: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return the points with n sinks among them, and which rows these are."""
    random = np.random.default_rng(1)
    D = points.shape[1]
    centre = points.mean(0)
    scale = np.median(np.linalg.norm(points - centre, axis=1))
    if where == "far side":
        direction = -centre
    else:
        direction = np.eye(D)[7] if where == "one dimension" else random.standard_normal(D)
    direction = direction / np.linalg.norm(direction)
    lengths = scale * medians * (1 + 0.2 * random.random(n))
    spread = 0.05 * scale * random.standard_normal((n, D))
    rows = np.sort(random.choice(len(points) + n, n, replace=False))
    mixed = np.empty((len(points) + n, D), points.dtype)
    is_sink = np.zeros(len(mixed), bool)
    is_sink[rows] = True
    mixed[is_sink] = centre + lengths[:, None] * direction + spread
    mixed[~is_sink] = points
    return mixed, is_sink


@pytest.mark.parametrize("where", ["far side", "one dimension", "random dimension"])
@pytest.mark.parametrize("medians", [10, 300, 10_000])
@pytest.mark.parametrize("n", [1, 3, 30])
def test_estimates_without_sinks_are_those_of_the_cloud_without_them(
    n: int, medians: float, where: str
) -> None:
    points = manifold()
    mixed, _ = planted(points, n, medians, where)
    found, alone = estimate(mixed, NAMES), estimate(points, NAMES)
    assert found.n_heavy == n
    assert alone.n_heavy == 0
    for name in alone:
        assert found.without_sinks[name] == pytest.approx(alone[name], rel=1e-6), name
    assert found.heaviest == pytest.approx(1.1 * medians, rel=0.15)
    assert "sink" in found.flags.split(";")
    assert "sink" not in alone.flags


@pytest.mark.parametrize("n", [1, 3, 30])
@pytest.mark.parametrize("window", [0, 8])
def test_estimates_with_sinks_are_those_of_the_reference(n: int, window: int) -> None:
    mixed, _ = planted(manifold(), n, 200, "one dimension")
    found = estimate(mixed, NAMES, theiler_window=window, distances=True)
    plain = mixed.astype(np.float64)
    squares = np.square(plain[:, None] - plain[None]).sum(-1)
    apart = np.abs(np.subtract.outer(np.arange(len(mixed)), np.arange(len(mixed))))
    squares[apart <= window] = np.inf
    expected = np.sqrt(np.sort(squares, 1)[:, :21])
    np.testing.assert_allclose(found.distances, expected, rtol=2e-6)
    eigenvalues = np.linalg.eigvalsh(np.cov(plain.T))
    ratio = eigenvalues.sum() ** 2 / np.square(eigenvalues).sum()
    assert found["participation_ratio"] == pytest.approx(ratio, rel=1e-6)
    assert found.first_share == pytest.approx(eigenvalues[-1] / eigenvalues.sum(), rel=1e-3)


@pytest.mark.parametrize("medians", [9, 12])
def test_a_sink_along_a_dimension_of_its_own_need_not_be_the_first_component(medians: int) -> None:
    random = np.random.default_rng(0)
    points = np.zeros((400, 40), np.float32)
    points[:, :2] = random.standard_normal((400, 2))
    points[:, 2:30] = 0.01 * random.standard_normal((400, 28))
    points[7] = 0
    points[7, 35] = medians
    eigenvalues = np.linalg.eigvalsh(np.cov(points.T.astype(np.float64)))
    found = estimate(points, NAMES)
    assert found.n_heavy == (medians > 9)
    assert eigenvalues[-1] > 1.5 * points[7, 35] ** 2 / 400
    assert found.first_share == pytest.approx(eigenvalues[-1] / eigenvalues.sum(), rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_number_formats(dtype: torch.dtype) -> None:
    mixed, is_sink = planted(manifold(), 3, 200, "one dimension")
    cloud = torch.from_numpy(mixed).to(dtype)
    assert cloud.isfinite().all()
    found, alone = estimate(cloud, NAMES), estimate(cloud[torch.from_numpy(~is_sink)], NAMES)
    assert found.n_heavy == 3
    for name in alone:
        assert found.without_sinks[name] == pytest.approx(alone[name], rel=1e-6), name


def test_copies_of_a_sink_count_once() -> None:
    points = manifold()
    mixed, is_sink = planted(points, 1, 200, "one dimension")
    copies = np.concatenate([mixed, np.repeat(mixed[is_sink], 4, 0)])
    found, alone = estimate(copies, NAMES), estimate(points, NAMES)
    assert (found.n_heavy, found.n_dup) == (1, 4)
    for name in alone:
        assert found.without_sinks[name] == pytest.approx(alone[name], rel=1e-6), name


def test_copies_of_a_sink_that_is_left_out_count_once() -> None:
    mixed, is_sink = planted(manifold(), 1, 200, "one dimension")
    copies = np.concatenate([mixed, mixed[is_sink]])
    for precision in ("auto", "float64"):
        found = estimate(copies, NAMES, max_norm_multiple=10, precision=precision)
        assert (found.n_heavy, found.n_dup, found.n_eff) == (1, 1, 400)


def test_a_cloud_whose_half_is_heavy_has_no_sink() -> None:
    points = manifold()
    points[::2] *= 1000
    found = estimate(points, NAMES)
    assert found.n_heavy == 0
    assert "sink" not in found.flags
    assert found.without_sinks == dict(found)


def test_left_out_at_a_multiple_both_estimates_agree() -> None:
    mixed, _ = planted(manifold(), 3, 200, "random dimension")
    found = estimate(mixed, NAMES, max_norm_multiple=10)
    assert found.n_heavy == 3
    assert found.n_eff == len(mixed) - 3
    assert found.without_sinks == dict(found)
    assert "sinks" in found.flags.split(";")


def test_a_multiple_that_is_named_holds_for_however_many_points_it_is() -> None:
    points = manifold()
    norms = np.linalg.norm(points - points.mean(0, dtype=np.float64), axis=1)
    light = norms <= 1.2 * np.median(norms)
    assert 200 <= light.sum() < 350  # more than an eighth are beyond
    found, alone = estimate(points, NAMES, max_norm_multiple=1.2), estimate(points[light], NAMES)
    assert (found.n_eff, found.n_heavy) == (light.sum(), (~light).sum())
    for name in alone:
        assert found[name] == pytest.approx(alone[name], rel=1e-6), name
    assert "sinks" in found.flags.split(";")


def test_sinks_are_seen_far_from_the_origin() -> None:
    points = manifold()
    mixed, is_sink = planted(points, 3, 50, "random dimension")
    found = heavy_points(torch.from_numpy(mixed + 5000))
    np.testing.assert_array_equal(found.mask, is_sink)


def test_a_sink_that_decides_nothing_is_no_flag() -> None:
    mixed, _ = planted(manifold(2000), 1, 100, "one dimension")
    found = estimate(mixed, ["twoNN_f10"])
    assert found.n_heavy == 1
    assert "sink" not in found.flags


def test_too_few_without_sinks_is_undefined_with_a_reason() -> None:
    mixed, _ = planted(manifold(21), 1, 200, "one dimension")
    found = estimate(mixed, ["mle"])
    assert found.n_eff == 22
    assert math.isfinite(found["mle"])
    assert math.isnan(found.without_sinks["mle"])
    assert found.reasons_without_sinks["mle"].startswith("too_few")


def test_a_batch_gives_what_its_clouds_give() -> None:
    """Up to the order of sums: the product of a single cloud may take several threads."""
    clean = np.concatenate([manifold(), manifold(3, seed=5)])
    batch = np.stack([clean, planted(manifold(), 3, 200, "one dimension")[0]])
    together = estimate(batch, NAMES)
    for at, cloud in enumerate(batch):
        alone = estimate(cloud, NAMES)
        assert together.n_heavy[at] == alone.n_heavy
        for name in alone:
            without = pytest.approx(alone.without_sinks[name], rel=1e-7)
            assert together.without_sinks[name][at] == without, name
            assert together[name][at] == pytest.approx(alone[name], rel=1e-7), name


def test_a_decimation_curve_has_both() -> None:
    points = manifold()
    mixed, _ = planted(points, 1, 200, "random dimension")
    found = decimation_curve(mixed, ["mle", "gride"], seed=0).set_index(["estimator", "n_points"])
    alone = estimate(points, ["mle", "gride"])
    for name in alone:
        whole = found.loc[(name, len(mixed))]
        assert whole["id_without_sinks"] == pytest.approx(alone[name], rel=1e-6), name
    assert found.loc[("mle", len(mixed)), "id"] > 1.02 * alone["mle"]
    error = found.loc[("gride_2", len(mixed)), "standard_error_without_sinks"]
    assert error == pytest.approx(alone.errors["gride_2"], rel=1e-6)
    halves = found.loc[("mle", len(mixed) // 2)]
    assert halves["standard_error_without_sinks"] < halves["standard_error"]
    radii = found[["radius", "radius_without_sinks"]].loc[("mle", len(mixed))]
    distances = estimate(points, ["mle"], distances=True).distances
    assert radii["radius_without_sinks"] == pytest.approx(distances[:, 1].mean(), rel=1e-6)
    assert radii["radius"] > 1.2 * radii["radius_without_sinks"]


def test_the_heavy_points_are_named() -> None:
    mixed, is_sink = planted(manifold(), 3, 200, "random dimension")
    np.testing.assert_array_equal(estimate(mixed, ["mle"]).sinks, is_sink)
    batch = estimate(np.stack([mixed, mixed[::-1]]), ["mle"])
    np.testing.assert_array_equal(batch.sinks, np.stack([is_sink, is_sink[::-1]]))


@pytest.mark.slow
def test_slow_estimators_have_both() -> None:
    points = manifold()
    mixed, _ = planted(points, 3, 200, "random dimension")
    found, alone = estimate(mixed, ["lPCA"]), estimate(points, ["lPCA"])
    assert found.without_sinks["lPCA"] == alone["lPCA"]
    assert found["lPCA"] < alone["lPCA"]


def test_a_curve_of_a_refused_cloud_is_undefined() -> None:
    points = manifold()
    points[3, 3] = np.nan
    found = decimation_curve(points, ["mle"], seed=0, n_min=400)
    assert found[["id", "id_without_sinks", "radius", "radius_without_sinks"]].isna().all(axis=None)
    assert found["n_subsets"].tolist() == [0]
