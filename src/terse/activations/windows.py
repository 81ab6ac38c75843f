"""How the dimension of each context changes when neighbours in time are left out.

If a point's nearest neighbours are the tokens just before and after it, the estimate is of the path
of one text through the space; what remains without them is of the manifold of the tokens (Theiler
1986, https://doi.org/10.1103/PhysRevA.34.2427).
"""

import logging
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from terse.activations.cache import Cache
from terse.activations.table import kind_of, long_table
from terse.dimension import estimate
from terse.dimension.names import GRIDE, RARE, expand_estimators
from terse.dimension.statistics import summarise

logger = logging.getLogger(__name__)

WINDOWS = (0, 8, 32)
"""Places in time within which neighbours are left out."""

N_CONTEXTS = 64
"""Contexts that are measured, evenly spaced over all."""

LINEAR = "participation_ratio"  # it has no neighbours
_BATCH_BYTES = 256 * 2**20


def window_table(
    cache: Cache,
    estimators: Iterable[str],
    *,
    skip_first: int = 0,
    max_norm_multiple: float | None = None,
) -> pd.DataFrame:
    """Return the mean dimension per module, estimator and window, on the same contexts.

    Args:
        cache: the cache of one model.
        estimators: names; GRIDE at all its scales is always among the estimators, and those that
            are slow or have no neighbours are left out.
        skip_first, max_norm_multiple: see `terse.dimension.estimate`.

    Returns:
        theiler_window, n_eff (mean number of points per context), and the columns of `summarise`;
        an empty table where no hidden states of tokens are stored.
    """
    asked = [name for name in expand_estimators(estimators) if name not in (*RARE, LINEAR)]
    names = list(dict.fromkeys([*asked, *GRIDE]))
    chosen = np.unique(np.linspace(0, cache.n_rows - 1, N_CONTEXTS).round().astype(int))
    options = {"skip_first": skip_first, "max_norm_multiple": max_norm_multiple}
    parts = []
    for module in cache.activations:
        table = _estimated(cache, module, chosen, names, options)
        for window, part in table.groupby("theiler_window", sort=False):
            summary = summarise(part).assign(n_eff=part["n_eff"].mean())
            summary.insert(0, "theiler_window", window)
            parts.append(summary)
        logger.info("measured %s of %d contexts without neighbours in time", module, len(chosen))
    if not parts:
        return pd.DataFrame(columns=pd.Index(["theiler_window"]))
    return pd.concat(parts, ignore_index=True).astype({"layer": "Int64"})


def _estimated(
    cache: Cache, module: str, chosen: np.ndarray, names: list[str], options: dict[str, Any]
) -> pd.DataFrame:
    """Return the estimates of a module's chosen contexts (c,), with every window."""
    stored, layer = cache.activations[module], cache.modules[module]["layer"]  # (n, T, D)
    size = max(1, _BATCH_BYTES // (4 * int(np.prod(stored.shape[1:]))))
    parts = []
    for start in range(0, len(chosen), size):
        points = np.stack([stored[int(row)] for row in chosen[start : start + size]])
        for window in WINDOWS:
            found = estimate(points, names, theiler_window=window, **options)
            parts.append(long_table(names, found, start).assign(theiler_window=window))
    table = pd.concat(parts)
    return table.assign(
        model=cache.attributes["model"],
        revision=cache.attributes["revision"],
        module=kind_of(module, layer),
        layer=layer,
        document=cache.rows["document"].to_numpy()[chosen[table.index]],
    )
