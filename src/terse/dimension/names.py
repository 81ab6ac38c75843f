"""The names of all estimators; imports no tensor library, since every workflow job parses it."""

import re
from collections.abc import Iterable
from functools import lru_cache

from terse.errors import TerseError, unknown_name

GRIDE_SCALES = (2, 4, 8, 16)
"""Orders n2 of the farther neighbour of GRIDE; the nearer one is n1 = n2 / 2."""

GRIDE = tuple(f"gride_{scale}" for scale in GRIDE_SCALES)

FAST = (
    "mle",
    "mle_inv",
    "mle_lb",
    "twoNN_mle",
    "mind_ml",
    "mind_ml_uncapped",
    *GRIDE,
    "participation_ratio",
)
"""Estimators with a fixed name, computed from the one neighbour pass."""

RARE = ("CorrInt", "DANCo", "ESS", "FisherS", "KNN", "MADA", "MOM", "PH", "TLE", "lPCA")
"""Estimators that run in scikit-dimension's own code, under its names; the slow path."""

REPEATED = {"KNN": 25}
"""Estimators that one random draw does not settle, and the draws of which the median is taken."""

SLOW = ("DANCo", "ESS", "FisherS", "PH")
"""Those of the slow path that take seconds to minutes for one cloud."""

_TWONN = re.compile(r"twoNN_f(\d\d)")
_SHOWN = (*FAST, "gride", "twoNN_fXX", *RARE)


@lru_cache(maxsize=128)
def discarded_fraction(name: str) -> float | None:
    """Return the fraction (0.01 to 0.99) that `twoNN_fXX` discards, None for another name."""
    found = _TWONN.fullmatch(name)
    return int(found[1]) / 100 if found else None


def check_estimator(name: str) -> str:
    """Return `name` if it is an estimator's name.

    `gride` stands for all its scales, see `expand_estimators`.

    Raises:
        TerseError: the name is unknown (with the nearest valid one), or is `twoNN_f00`.
    """
    if name == "twoNN_f00":
        raise TerseError(
            "estimator 'twoNN_f00' is not defined: with nothing discarded the last point's "
            "-log(1 - N/N) is infinite; use 'twoNN_f01' to 'twoNN_f99', or 'twoNN_mle'"
        )
    if name in FAST or name in RARE or name == "gride" or discarded_fraction(name) is not None:
        return name
    percent = re.fullmatch(r"twonn\D*(\d{1,2})%?", str(name).lower())
    near = [f"twoNN_f{int(percent[1]):02d}"] if percent else []
    near += [known for known in _SHOWN if known.lower() == str(name).lower()]
    if near:
        raise TerseError(f"unknown estimator {name!r}; did you mean {near[0]!r}?")
    raise unknown_name("estimator", str(name), _SHOWN)


def expand_estimators(names: Iterable[str]) -> list[str]:
    """Return checked names in order, each once, with `gride` replaced by its scales.

    Raises:
        TerseError: as `check_estimator`; or no name is given, or a bare string is.
    """
    if isinstance(names, str):
        raise TerseError(f"estimators must be a list of names, such as [{names!r}]")
    expanded: dict[str, None] = {}
    for name in names:
        scales = GRIDE if check_estimator(name) == "gride" else (name,)
        expanded.update(dict.fromkeys(scales))
    if not expanded:
        raise TerseError("no estimator is asked for; give at least one, such as 'mle'")
    return list(expanded)
