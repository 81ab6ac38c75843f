"""What scikit-dimension's own code is called with, and what is said of its answers."""

import logging
import re

import numpy as np
import pytest
import skdim

from terse.dimension import estimate, rare
from terse.dimension.names import REPEATED
from terse.errors import TerseError

pytestmark = pytest.mark.filterwarnings("ignore")


def gaussian(n: int, d: int, D: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.standard_normal((n, d)) @ random.standard_normal((d, D))


def test_knn_is_the_median_of_draws_from_2_or_fewer_to_all_dimensions() -> None:
    points = gaussian(500, 20, 20)
    draws = [float(skdim.id.KNN(random_state=i).fit_transform(points)) for i in range(25)]
    found = estimate(points, ["KNN", "mle"], n_jobs=1)
    assert REPEATED == {"KNN": 25}
    assert (min(draws) <= 2, max(draws)) == (True, 20)  # scikit-dimension 0.5.0
    assert found["KNN"] == np.median(draws)
    assert found.spreads == {"KNN": np.subtract(*np.quantile(draws, [0.75, 0.25]))}
    assert "unstable" in found.flags.split(";")


def test_draws_that_agree_are_stable_and_others_are_not() -> None:
    assert rare._median([10.0, 10.0, 10.5], "KNN", set()) == rare.Found(10.0, spread=0.25)
    assert rare._median([10.0, 8.0, 12.5], "KNN", set()).flags == {"unstable"}
    assert rare._median([7.0], "PH", {"subsampled"}).flags == {"subsampled"}


def test_what_is_no_number_is_a_reason() -> None:
    found = rare._median([np.inf], "TLE", set())
    assert np.isnan(found.value)
    assert (found.reason, found.flags) == ("failed: TLE returned inf", {"failed"})


def test_one_far_point_moves_mada_and_mom_and_not_what_is_given_without_it() -> None:
    points = gaussian(500, 20, 20)
    points[-1] *= 100
    names = ["MADA", "MOM", "TLE", "CorrInt", "lPCA"]
    with_it, without = estimate(points, names, n_jobs=1), estimate(points[:-1], names, n_jobs=1)
    moved = {name for name in names if abs(with_it[name] / without[name] - 1) > 0.05}
    assert moved == {"MADA", "MOM", "lPCA"}  # scikit-dimension 0.5.0
    assert "sink" in with_it.flags
    for name in names:
        assert with_it.without_sinks[name] == pytest.approx(without[name], rel=1e-9), name


def test_one_repeated_point_makes_their_mind_ml_1_and_leaves_ours() -> None:
    points = gaussian(500, 8, 20)
    doubled = np.concatenate([points, points[:1]])
    ours = estimate(doubled, ["mind_ml"])
    assert skdim.id.MiND_ML(k=20, D=20).fit(doubled).dimension_ == 1  # scikit-dimension 0.5.0
    assert ours["mind_ml"] == pytest.approx(estimate(points, ["mind_ml"])["mind_ml"], rel=1e-9)
    assert ours["mind_ml"] > 6
    assert ours.n_dup == 1
    assert "duplicates" in ours.flags


@pytest.mark.slow
def test_slow_estimators_take_as_many_points_as_they_may() -> None:
    points = gaussian(300, 3, 5)
    whole = estimate(points, ["FisherS", "TLE"], n_jobs=1)
    few = estimate(points, ["FisherS", "TLE"], n_jobs=1, slow_max_points=60)
    chosen = np.sort(np.random.default_rng(rare.SEED).choice(300, 60, replace=False))
    assert few["FisherS"] == estimate(points[chosen], ["FisherS"], n_jobs=1)["FisherS"]
    assert few["FisherS"] != whole["FisherS"]
    assert few["TLE"] == whole["TLE"]
    enough = estimate(points, ["FisherS"], n_jobs=1, slow_max_points=300)
    assert ["subsampled" in found.flags for found in (few, whole, enough)] == [True, False, False]
    with pytest.raises(TerseError, match=r"slow_max_points is 21; allowed: 22 or more, or None"):
        estimate(points, ["mle"], slow_max_points=21)


def test_progress_is_told(caplog: pytest.LogCaptureFixture, monkeypatch) -> None:
    monkeypatch.setattr(rare, "INTERVAL_S", 0.0)
    with caplog.at_level(logging.INFO, "terse.dimension.rare"):
        estimate(np.stack([gaussian(50, 2, 3)] * 2), ["TLE", "MOM"], n_jobs=1)
    assert re.findall(r"\d of 4", caplog.text) == ["1 of 4", "2 of 4", "3 of 4", "4 of 4"]


def test_the_estimate_of_the_time_grows_with_the_points() -> None:
    small, large = (rare.slow_seconds(["mle", "PH", "ESS"], n) for n in (100, 1000))
    assert 5 * small < large
    assert rare.slow_seconds(["mle", "TLE"], 1000) == 0
