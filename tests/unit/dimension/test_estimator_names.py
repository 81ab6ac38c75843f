"""Estimator names, and that asking for them costs no tensor library."""

import subprocess
import sys

import pytest

from terse.dimension.names import (
    FAST,
    GRIDE,
    RARE,
    check_estimator,
    discarded_fraction,
    expand_estimators,
)
from terse.errors import TerseError


@pytest.mark.parametrize("name", [*FAST, *RARE, "gride", "twoNN_f01", "twoNN_f10", "twoNN_f99"])
def test_every_name_is_its_own_check(name: str) -> None:
    assert check_estimator(name) == name


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [("MLE", "'mle'"), ("mind_lm", "'mind_ml'"), ("twoNN_10", "'twoNN_f10'"), ("lpca", "'lPCA'")],
)
def test_unknown_name_says_the_nearest(wrong: str, nearest: str) -> None:
    with pytest.raises(TerseError, match=nearest):
        check_estimator(wrong)


def test_twonn_that_discards_nothing_is_refused_with_its_reason() -> None:
    with pytest.raises(TerseError, match=r"infinite.*twoNN_f01"):
        check_estimator("twoNN_f00")


def test_discarded_fraction() -> None:
    assert discarded_fraction("twoNN_f07") == 0.07
    assert discarded_fraction("mle") is None


def test_gride_expands_and_repeats_vanish() -> None:
    assert expand_estimators(["mle", "gride", "mle"]) == ["mle", *GRIDE]
    with pytest.raises(TerseError, match="list of names"):
        expand_estimators("mle")
    with pytest.raises(TerseError, match="no estimator"):
        expand_estimators([])


def test_names_load_no_tensor_library() -> None:
    heavy = ["torch", "numpy", "pandas", "h5py", "scipy"]
    code = (
        "import sys, terse.dimension.names, terse.dimension;"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert shown.stdout.strip() == "[]"
