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

NAMES = ["mle", "mind_ml", "participation_ratio", "gride"]
random = np.random.default_rng(0)
for dtype in ("float16", "float32", "float64"):
    for D in (8, 300):
        cloud = random.standard_normal((120, D)).astype(dtype)
        cloud[5] *= 200
        cloud[7] = cloud[9]
        turned = torch.from_numpy(np.ascontiguousarray(cloud.T)).T
        part = torch.from_numpy(np.concatenate([cloud, cloud], 1))[:, :D]
        locked = cloud.copy()
        locked.flags.writeable = False
        for points in (cloud, turned, part, locked, np.stack([cloud, cloud + 1])):
            estimate(points, NAMES, skip_first=2)
            estimate(points, NAMES, precision="float64", theiler_window=2)
public = {name: getattr(kernels, name) for name in vars(kernels) if not name.startswith("_")}
types = {name: len(k.signatures) for name, k in public.items() if hasattr(k, "signatures")}
assert len(types) == 11, types
assert set(types.values()) == {1}, types
"""

NO_PLACE = """
import numpy as np
from numba.core import caching

caching.CacheImpl._locator_classes = []  # as where neither the package nor a home can be written
from terse.dimension import kernels

sums = np.empty(3)
points = np.arange(12, dtype=np.float32).reshape(4, 3)
kernels.mean_of(points, np.array([False, True, False, False]), sums)
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
