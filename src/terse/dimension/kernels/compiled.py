"""How the kernels are compiled."""

import logging
from collections.abc import Callable
from typing import Any

from numba import njit

logger = logging.getLogger(__name__)

_FAST = {"reassoc", "contract", "nsz", "arcp"}  # sums may be vectorised; infinities stay


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile at the first call; keep the code on disk where there is a place for it."""
    options = {"nogil": True, "fastmath": _FAST, "error_model": "numpy"}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError as error:  # neither this folder nor the user's cache can be written
        logger.info("%s is compiled by every process: %s", function.__name__, error)
        return njit(**options)(function)
