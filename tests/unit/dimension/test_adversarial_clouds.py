"""Clouds on which other implementations are silently wrong."""

import math

import numpy as np
import pytest
import torch

from skdim_oracle import disagreements, reference
from terse.dimension import estimate

NAMES = ["mle", "mle_inv", "twoNN_f10", "mind_ml", "mind_ml_uncapped"]
FEW = ["mle", "twoNN_f10", "mind_ml"]

PRECISIONS = ("auto", "float64")


def normal(n: int = 600, D: int = 256, seed: int = 0) -> np.ndarray:
    """Return n points whose dimension is well below D and whose r_1 is about 3, float32."""
    random = np.random.default_rng(seed)
    low = random.standard_normal((n, 16)) @ random.standard_normal((16, D)) / 4
    return (low + 0.1 * random.standard_normal((n, D))).astype(np.float32) / 8


def wrong_first_neighbours(points: np.ndarray) -> int:
    """Return how many first neighbours differ from those by float64 differences."""
    found = estimate(points, NAMES, distances=True)
    exact = points.astype(np.float64)
    norms = torch.cdist(
        torch.from_numpy(exact),
        torch.from_numpy(exact),
        compute_mode="donot_use_mm_for_euclid_dist",
    ).numpy()
    np.fill_diagonal(norms, np.inf)
    return int((found.neighbours[:, 0] != norms.argmin(1)).sum())


def two_groups() -> np.ndarray:
    points = normal()
    points[::2, 5] += 2800
    points[1::2, 5] -= 2800
    return points


@pytest.mark.parametrize("n_dims", [1, 8, 256])
def test_common_offset(n_dims: int) -> None:
    points = normal()
    points[:, :n_dims] += 3000
    assert wrong_first_neighbours(points) == 0
    assert disagreements(estimate(points, NAMES), reference(points, FEW)) == {}


def test_two_groups_far_apart() -> None:
    points = two_groups()
    assert wrong_first_neighbours(points) == 0
    found = estimate(points, NAMES)
    assert "float64" not in found.flags
    assert disagreements(found, reference(points, FEW)) == {}


def test_two_groups_in_more_dimensions_than_are_split_off() -> None:
    points = normal()
    points[::2, :40] += 2800
    points[1::2, :40] -= 2800
    assert wrong_first_neighbours(points) == 0
    found = estimate(points, NAMES)
    assert "float64" in found.flags
    assert disagreements(found, reference(points, FEW)) == {}


def test_a_tight_cluster_is_searched_by_differences_and_the_cloud_is_not_in_float64() -> None:
    points = normal(1600, 64)
    random = np.random.default_rng(1)
    chosen = np.sort(random.choice(1600, 60, replace=False))
    centre = 5 * random.standard_normal(64) / 8  # norm 5, where the others have 1
    points[chosen] = centre + 1e-4 * random.standard_normal((60, 64))
    assert wrong_first_neighbours(points) == 0
    found, exact = (estimate(points, NAMES, distances=True, precision=p) for p in PRECISIONS)
    assert (found.flags, found.n_heavy) == ("repaired", 0)
    np.testing.assert_allclose(found.distances[chosen], exact.distances[chosen], rtol=1e-6)
    np.testing.assert_array_equal(found.neighbours[chosen], exact.neighbours[chosen])
    assert dict(found) == pytest.approx(dict(exact), rel=1e-6)


def test_one_sink() -> None:
    points = normal()
    points[0, 11] = 2500
    found = estimate(points, NAMES)
    clean = estimate(points, NAMES, skip_first=1)
    assert disagreements(found, reference(points, FEW)) == {}
    assert found["mle"] > 1.1 * clean["mle"]
    assert found["twoNN_f10"] == pytest.approx(clean["twoNN_f10"], rel=0.02)
    without = estimate(points, NAMES, max_norm_multiple=10.0)
    assert dict(without) == pytest.approx(dict(clean), rel=1e-6)
    assert without.n_eff == 599
    assert "sinks" in without.flags.split(";")


def test_one_duplicate_pair_changes_nothing_but_the_counts() -> None:
    points = normal()
    doubled = np.concatenate([points, points[17:18]])
    found = estimate(doubled, NAMES)
    assert dict(found) == pytest.approx(dict(estimate(points, NAMES)), rel=1e-6)
    assert (found.n_eff, found.n_dup) == (600, 1)
    assert "duplicates" in found.flags.split(";")


def test_300_duplicate_pairs_and_the_place_of_what_is_left() -> None:
    points = normal(500)
    doubled = np.concatenate([points, points[:300]])
    found = estimate(doubled, NAMES, distances=True, local_ids=True)
    assert dict(found) == pytest.approx(dict(estimate(points, NAMES)), rel=1e-6)
    assert (found.n_eff, found.n_dup) == (500, 300)
    assert np.isnan(found.local_ids[500:]).all()
    assert (found.neighbours[500:] == -1).all()
    assert (found.neighbours[:500] < 500).all()


@pytest.mark.parametrize("window", [0, 1])
@pytest.mark.parametrize("far", [50.0, 0.0])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_negative_zero_equals_zero_in_heavy_points(precision: str, far: float, window: int) -> None:
    points = np.random.default_rng(0).normal(size=(64, 6)).astype(np.float32) + far
    points[0] = points[1] = 0
    points[1, 0] = -0.0
    found = estimate(points, NAMES, theiler_window=window, precision=precision)
    assert (found.n_eff, found.n_dup, found.n_heavy) == (63, 1, int(far > 0))


def test_half_precision_that_underflows_to_zeros_of_either_sign_says_so() -> None:
    points = (np.random.default_rng(0).normal(size=(100, 40)) * 4e-9).astype(np.float16)
    assert not points.any()
    assert math.isnan(estimate(points, NAMES)["mle"])


@pytest.mark.parametrize("window", [0, 3])
@pytest.mark.parametrize("after", [1, 2, 150])
def test_a_copy_counts_once_where_its_distance_is_never_taken(after: int, window: int) -> None:
    """Neighbours in time are no neighbours: the distance of zero to the copy is not looked at."""
    points = normal(300, 40)
    points[100 + after] = points[100]
    found, exact = (estimate(points, NAMES, theiler_window=window, precision=p) for p in PRECISIONS)
    assert (found.n_eff, found.n_dup) == (exact.n_eff, exact.n_dup) == (299, 1)
    assert dict(found) == pytest.approx(dict(exact), rel=1e-6)


def test_rows_that_differ_only_in_their_last_number_are_no_duplicates() -> None:
    points = normal(200, 600).astype(np.float16)
    points[3, :-1] = points[9, :-1]
    points[3, -1] = points[9, -1] + 1
    found = estimate(points, NAMES)
    assert found.n_dup == 0
    assert disagreements(found, reference(points, FEW)) == {}


def test_negative_zero_equals_zero() -> None:
    points = normal(200, 40)
    points[:, 0] = 0.0
    points[3] = points[9]
    points[3, 0] = -0.0
    assert estimate(points, NAMES).n_dup == 1


@pytest.mark.parametrize("n_distinct", [1, 2, 21])
def test_fewer_than_22_distinct_points_is_nan_with_a_reason(n_distinct: int) -> None:
    points = np.tile(normal(n_distinct, 30), (100 // n_distinct + 1, 1))
    found = estimate(points, [*NAMES, "participation_ratio", "gride"], distances=True)
    assert all(np.isnan(value) for value in found.values())
    assert found.flags == "duplicates;too_few"
    assert found.reasons["mle"] == f"too_few: {n_distinct} distinct points, 22 needed"
    assert found.n_eff == n_distinct


def test_exactly_22_points() -> None:
    points = normal(22, 30)
    found = estimate(points, [*NAMES, "gride"])
    assert disagreements(found, reference(points, found)) == {}


def test_skipping_all_points_is_too_few() -> None:
    assert estimate(normal(30, 5), NAMES, skip_first=40).flags == "too_few"


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_nonfinite_values_are_counted_and_refused_for_that_cloud_only(bad: float) -> None:
    batch = np.stack([normal(100, 50, seed) for seed in range(3)]).astype(np.float16)
    batch[1, 5, 7] = bad
    found = estimate(batch, NAMES)
    assert ["nonfinite" in flags for flags in found.flags] == [False, True, False]
    assert np.isnan(found["mle"]).tolist() == [False, True, False]
    assert found.reasons["mle"][1] == "nonfinite: 1 of 5000 values are not finite"
    assert found.reasons["mle"][0] == ""
    assert found["mle"][2] == pytest.approx(estimate(batch[2], NAMES)["mle"], rel=1e-6)
    assert estimate(batch[1], NAMES, max_norm_multiple=3.0).flags == "nonfinite"
    assert np.isfinite(estimate(batch[1], NAMES, skip_first=6)["mle"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_with_massive_activations(dtype: torch.dtype) -> None:
    points = torch.from_numpy(two_groups()).to(dtype)
    found = estimate(points, NAMES)
    assert disagreements(found, reference(points.float().numpy(), FEW)) == {}


def test_one_dimension() -> None:
    points = np.random.default_rng(0).random((500, 1)).astype(np.float32)
    padded = np.concatenate([points, np.zeros_like(points)], 1)
    found = estimate(points, NAMES)
    assert disagreements(found, reference(padded, FEW)) == {}
    assert found["mle_inv"] == pytest.approx(1, abs=0.1)


def test_constant_dimensions_change_nothing() -> None:
    points = normal(300, 40)
    wide = np.concatenate([points, np.full((300, 25), 123.456, dtype=np.float32)], 1)
    assert dict(estimate(wide, NAMES)) == pytest.approx(dict(estimate(points, NAMES)), rel=1e-6)


def test_points_equally_far_from_each_other_have_no_scale() -> None:
    found = estimate(np.eye(60), [*NAMES, "gride"])
    assert all(np.isnan(value) for value in found.values())
    assert "equal_distances" in found.flags
    assert found.reasons["mle"].startswith("equal_distances")


def test_a_lattice_with_many_ties_is_finite_or_says_why() -> None:
    axes = np.meshgrid(*[np.arange(6.0)] * 4)
    found = estimate(np.stack(axes, -1).reshape(-1, 4).astype(np.float16), [*NAMES, "gride"])
    for name, value in found.items():
        assert np.isfinite(value) or found.reasons[name]


def test_mind_ml_says_when_it_is_at_its_cap() -> None:
    points = np.random.default_rng(0).standard_normal((400, 100))
    found = estimate(points, ["mind_ml", "mind_ml_uncapped"])
    assert found["mind_ml"] == 20
    assert found["mind_ml_uncapped"] > 21
    assert "saturated" in found.flags
