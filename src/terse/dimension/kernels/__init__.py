"""Compiled loops over one cloud on a CPU (Numba): what takes torch several passes takes one here.

They release the interpreter's lock, so that clouds run on threads side by side. No distance on a
GPU or in the float64 reference comes from here.

Numba keeps compiled code on disk. Two processes that save a kernel at the same moment, for
arguments of different types, can leave the code of one under the name of the other; so every kernel
that is called from outside gets arguments of one type only. Nor does Numba notice that a kernel in
another file has changed; so a kernel calls only those of its own file. (Tests hold both.)
"""

from terse.dimension.kernels.likelihood import gride, log_ratios, mind_ml_root, spreads, twonn
from terse.dimension.kernels.neighbours import (
    FAR,
    add_points,
    distances_from,
    nearest,
    search,
    settle,
)
from terse.dimension.kernels.points import (
    about_mean,
    subtract,
)
from terse.dimension.kernels.spectrum import linear_dimensions

__all__ = [
    "FAR",
    "about_mean",
    "add_points",
    "distances_from",
    "gride",
    "linear_dimensions",
    "log_ratios",
    "mind_ml_root",
    "nearest",
    "search",
    "settle",
    "spreads",
    "subtract",
    "twonn",
]
