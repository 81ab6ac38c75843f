"""Intrinsic dimension of clouds of points: one neighbour pass feeds every estimator.

>>> from terse.dimension import estimate
>>> estimate(points, ["mle", "twoNN_f10"])["mle"]

Importing this package loads neither torch nor numpy; the first use does.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from terse.dimension.curve import decimation_curve
    from terse.dimension.engine import estimate
    from terse.dimension.results import Estimates

_HOMES = {"estimate": "engine", "Estimates": "results", "decimation_curve": "curve"}

__all__ = ["Estimates", "decimation_curve", "estimate"]


def __getattr__(name: str) -> object:
    """Load a public name from its module on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
