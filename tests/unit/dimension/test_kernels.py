"""Compiled code on disk: shared by processes, and not needed."""

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from terse.dimension import kernels
from terse.dimension.kernels.neighbours import _short_difference

ONE_TYPE = """
import numpy as np, torch
from terse.dimension import estimate, kernels

NAMES = ["mle", "mind_ml", "twoNN_f10", "participation_ratio", "gride"]
random = np.random.default_rng(0)
for dtype in ("float16", "float32", "float64"):
    for D in (8, 300):
        cloud = random.standard_normal((120, D)).astype(dtype)
        cloud[5] *= 200
        cloud[7] = cloud[9]
        cloud[20:50] = cloud[20] * 3 + cloud[20:50] / 1e4  # tight: searched by differences
        turned = torch.from_numpy(np.ascontiguousarray(cloud.T)).T
        part = torch.from_numpy(np.concatenate([cloud, cloud], 1))[:, :D]
        locked = cloud.copy()
        locked.flags.writeable = False
        for points in (cloud, turned, part, locked, np.stack([cloud, cloud + 1])):
            estimate(points, NAMES, skip_first=2)
            estimate(points, NAMES, precision="float64", theiler_window=2)
public = {name: getattr(kernels, name) for name in vars(kernels) if not name.startswith("_")}
types = {name: len(k.signatures) for name, k in public.items() if hasattr(k, "signatures")}
assert len(types) == 13, types
assert set(types.values()) == {1}, types
"""

NO_PLACE = """
import numpy as np
from numba.core import caching

caching.CacheImpl._locator_classes = []  # as where neither the package nor a home can be written
from terse.dimension import kernels

sums = np.empty(3)
points = np.arange(12, dtype=np.float32).reshape(4, 3)
kernels.about_mean(points, np.array([False, True, False, False]), sums, np.empty(4))
np.testing.assert_allclose(sums, points[[0, 2, 3]].mean(0))
"""


KERNELS = Path(kernels.__path__[0])


def fault(code: str) -> str:
    """Run code in a process of its own and return what it says when it fails, else nothing."""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    return "" if run.returncode == 0 else run.stderr


def test_a_kernel_is_compiled_for_one_type_whatever_the_points_are() -> None:
    assert fault(ONE_TYPE) == ""


def test_where_compiled_code_cannot_be_kept_it_is_made_each_time() -> None:
    assert fault(NO_PLACE) == ""


def test_the_package_loads_no_numba() -> None:
    code = "import sys, terse.dimension; assert not {'numba', 'torch', 'numpy'} & set(sys.modules)"
    assert fault(code) == ""


def test_a_kernel_calls_only_those_of_its_own_file() -> None:
    """Numba compares a kernel's own file with the code that it has kept, and no other."""
    files = [path for path in KERNELS.glob("*.py") if path.stem not in ("__init__", "compiled")]
    assert len(files) >= 4
    for path in files:
        nodes = ast.walk(ast.parse(path.read_text()))
        ours = {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
        assert ours == {"terse.dimension.kernels.compiled"}, path


def test_squares_that_vanish_in_float32_are_taken_in_float64() -> None:
    random = np.random.default_rng(0)
    for scale in (1.0, 1e-19, 1e-25):
        x, y = (scale * random.standard_normal((2, 300))).astype(np.float32)
        true = np.square(x.astype(np.float64) - y.astype(np.float64)).sum()
        assert _short_difference(x, y) == pytest.approx(true, rel=1e-6, abs=0)


@pytest.mark.parametrize("window", [0, 2])
def test_neighbours_by_differences_are_those_of_a_brute_force_search(window: int) -> None:
    random = np.random.default_rng(0)
    points = random.standard_normal((90, 12)).astype(np.float32)
    times = np.sort(random.choice(200, 90, replace=False))
    added = np.zeros(90, bool)
    added[[0, 7, 8, 89]] = True
    exact = points.astype(np.float64)
    true = np.square(exact[:, None] - exact).sum(-1)
    true[np.abs(times[:, None] - times) <= window] = np.inf
    without = np.where(added, np.inf, true)
    squared, index = np.empty((90, 5)), np.zeros((90, 5), np.int64)
    kernels.search(points, ~added, added, times, window, squared, index)
    np.testing.assert_array_equal(index[~added], without.argsort(1)[~added, :5])
    np.testing.assert_allclose(squared[~added], np.sort(without, 1)[~added, :5], rtol=1e-12)
    kernels.add_points(points, added, times, window, squared, index)
    np.testing.assert_array_equal(index, true.argsort(1)[:, :5])
    np.testing.assert_allclose(squared, np.sort(true, 1)[:, :5], rtol=1e-12)


@pytest.mark.parametrize("kind", ["random", "ties", "ascending", "alike"])
@pytest.mark.parametrize("n", [40, 128, 700])
def test_the_nearest_are_selected_in_order(n: int, kind: str) -> None:
    random = np.random.default_rng(n)
    product = random.standard_normal((n, n)).astype(np.float32)
    if kind == "ties":
        product = np.round(product)
    elif kind == "ascending":
        product = -np.arange(n, dtype=np.float32) - np.zeros((n, 1), np.float32)
    elif kind == "alike":
        product[:] = 1
    product = np.triu(product) + np.triu(product, 1).T
    norms, k = np.abs(random.standard_normal(n)).astype(np.float32), 24
    found, places = np.empty((n, k), np.float32), np.empty((n, k), np.int32)
    nothing = np.empty((0, n), np.float32)
    kernels.nearest(np.triu(product), norms, nothing, np.arange(n), 0, k, found, places)
    values = norms - 2 * product
    np.fill_diagonal(values, np.inf)
    np.testing.assert_array_equal(found, np.sort(values, 1)[:, :k])
    np.testing.assert_array_equal(np.take_along_axis(values, places.astype(int), 1), found)
    assert all(len(set(row)) == k for row in places.tolist())
