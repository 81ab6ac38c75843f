"""Clouds by tiles, decimation, and scikit-dimension's own code on our clouds."""

import inspect

import numpy as np
import pytest
import skdim
import torch

from terse.dimension import curve, decimation_curve, estimate, neighbours
from terse.dimension.names import RARE, REPEATED
from terse.dimension.rare import SEED
from terse.errors import TerseError

NAMES = ["mle", "twoNN_f10", "mind_ml_uncapped", "gride", "participation_ratio"]


def sheet(n: int, d: int = 4, D: int = 40, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    flat = random.random((n, d)) @ random.standard_normal((d, D))
    return (np.tanh(flat) + 0.1 * random.standard_normal((n, D))).astype(np.float32)


@pytest.mark.parametrize("tile", [16, 100, 411])
@pytest.mark.parametrize("kind", ["plain", "offset", "groups", "theiler", "double"])
def test_tiles_of_any_size_equal_the_whole(
    tile: int, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = sheet(410)
    if kind == "offset":
        points = points + 300
    if kind == "groups":
        points[::2, 3] += 2800
    if kind == "double":
        points = points.astype(np.float64)
    window = 30 if kind == "theiler" else 0
    whole = estimate(points, NAMES, distances=True, theiler_window=window)
    monkeypatch.setattr(neighbours, "TILES_ABOVE", 100)
    monkeypatch.setattr(neighbours, "_TILE", tile)
    tiled = estimate(points, NAMES, distances=True, theiler_window=window)
    np.testing.assert_allclose(tiled.distances, whole.distances, rtol=3e-5)
    assert (tiled.neighbours == whole.neighbours).mean() > 0.999
    for name in whole:
        assert tiled[name] == pytest.approx(whole[name], rel=1e-6), name


def test_large_batches_keep_clouds_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = np.stack([sheet(300, d) for d in (2, 3, 8)])
    monkeypatch.setattr(neighbours, "TILES_ABOVE", 100)
    monkeypatch.setattr(neighbours, "_TILE", 128)
    together = estimate(batch, ["mle"])["mle"]
    assert [estimate(one, ["mle"])["mle"] for one in batch] == pytest.approx(list(together))


@pytest.mark.slow
def test_a_really_large_cloud_equals_its_float64_reference() -> None:
    points = sheet(12_000, 5, 64)
    fast, exact = (estimate(points, NAMES, precision=p) for p in ("auto", "float64"))
    for name in fast:
        assert fast[name] == pytest.approx(exact[name], rel=1e-6), name


def test_decimation_of_a_flat_square_stays_at_two() -> None:
    points = np.random.default_rng(0).random((1024, 2))
    found = decimation_curve(points, ["twoNN_mle", "gride"], n_min=128, seed=0)
    twonn = found[found["estimator"] == "twoNN_mle"].set_index("n_points")
    assert twonn["n_subsets"].to_dict() == {1024: 1, 512: 2, 256: 4, 128: 8}
    assert (np.diff(twonn["radius"].to_numpy()) > 0).all()
    assert twonn["id"].to_numpy() == pytest.approx(np.full(4, 2.0), abs=0.2)
    errors = found[found["estimator"] == "gride_2"].set_index("n_points")["standard_error"]
    assert errors[1024] == pytest.approx(2 / np.sqrt(1024), rel=0.15)
    assert np.isfinite(errors.to_numpy()).all()


def test_decimation_draws_without_replacement_and_by_its_seed() -> None:
    points = torch.from_numpy(sheet(400))
    first, second = (decimation_curve(points, ["mle"], seed=s) for s in (1, 1))
    assert first.equals(second)
    assert not first.equals(decimation_curve(points, ["mle"], seed=2))
    with pytest.raises(TerseError, match="n_min is 10"):
        decimation_curve(points, ["mle"], n_min=10, seed=0)
    with pytest.raises(TerseError, match="one cloud"):
        decimation_curve(points[None], ["mle"], seed=0)


def test_subsets_of_a_decimation_are_disjoint(monkeypatch: pytest.MonkeyPatch) -> None:
    points = np.arange(200.0)[:, None] ** 1.5
    drawn: list[list[float]] = []

    def recorded(subset: np.ndarray, names: list[str], **settings) -> object:
        drawn.append(subset[:, 0].tolist())
        return estimate(subset, names, **settings)

    monkeypatch.setattr(curve, "estimate", recorded)
    found = decimation_curve(points, ["mle"], n_min=25, seed=0)
    assert found["n_points"].tolist() == [200, 100, 50, 25]
    for size, n_subsets in ((200, 1), (100, 2), (50, 4), (25, 8)):
        subsets = [subset for subset in drawn if len(subset) == size]
        assert len(subsets) == n_subsets
        together = np.sort(np.concatenate(subsets))  # each point in one of them
        assert together.tolist() == points[:, 0].tolist()
        own = [estimate(np.array(subset)[:, None], ["mle"])["mle"] for subset in subsets]
        row = found[found["n_points"] == size].iloc[0]
        assert row["id"] == pytest.approx(np.mean(own), rel=1e-12)
        if n_subsets > 1:
            expected = np.std(own, ddof=1) / np.sqrt(n_subsets)
            assert row["standard_error"] == pytest.approx(expected, rel=1e-12)


def own_code(name: str, points: np.ndarray) -> float:
    """Run scikit-dimension as a user would."""
    estimator = getattr(skdim.id, name)
    known = inspect.signature(estimator).parameters
    settings = {"random_state": SEED, "verbose": False}
    made = estimator(**{key: value for key, value in settings.items() if key in known})
    return float(np.squeeze(made.fit_transform(points)))


@pytest.mark.parametrize("name", ["CorrInt", "MADA", "MOM", "TLE", "lPCA"])
@pytest.mark.filterwarnings("ignore")
def test_rarer_estimators_are_scikit_dimensions_own(name: str) -> None:
    points = sheet(150, 3, 8)
    doubled = np.concatenate([points, points[:10]])
    found = estimate(doubled, [name, "mle"], n_jobs=1)
    assert found[name] == pytest.approx(own_code(name, points.astype(np.float64)), rel=1e-9)
    assert list(found) == [name, "mle"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_every_rarer_estimator_runs_in_parallel_over_clouds() -> None:
    batch = np.stack([sheet(120, 3, 8, seed) for seed in (0, 1)]).astype(np.float64)
    found = estimate(batch, RARE, n_jobs=2)
    for name in (name for name in RARE if name not in REPEATED):
        expected = [own_code(name, points) for points in batch]
        assert list(found[name]) == pytest.approx(expected, rel=1e-6), name


def test_a_refused_cloud_and_a_failing_estimator_are_nan_with_their_reasons() -> None:
    batch = np.stack([sheet(150, 3, 1), sheet(150, 3, 1)])
    batch[0, 0, 0] = np.inf
    found = estimate(batch, ["CorrInt"], n_jobs=1)
    assert np.isnan(found["CorrInt"]).all()
    assert found.reasons["CorrInt"][0].startswith("nonfinite")
    assert found.reasons["CorrInt"][1].startswith("failed: ValueError")
    assert "failed" in found.flags[1]
