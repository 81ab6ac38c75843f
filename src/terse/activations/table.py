"""From cached activations to the tidy table of intrinsic dimensions."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from terse.activations.cache import Cache
from terse.dimension import Estimates, estimate
from terse.dimension.names import expand_estimators

logger = logging.getLogger(__name__)

COLUMNS = [
    "model", "revision", "corpus", "row", "document", "chunk", "module", "layer", "estimator",
    "id", "n_eff", "n_dup", "flags", "loss_nats", "entropy_nats",
]  # fmt: skip
_BATCH_BYTES = 256 * 2**20


def dimension_table(
    cache: Cache,
    estimators: Iterable[str],
    *,
    skip_first: int = 0,
    max_norm_multiple: float | None = None,
    theiler_window: int = 0,
) -> pd.DataFrame:
    """Return one row per context, module and estimator.

    Columns: `COLUMNS`; layer is missing outside the blocks; id is NaN where it is undefined, and
    flags say why; loss_nats and entropy_nats are means over the context's tokens.
    Estimates from the cached tensors, or takes what was estimated during the capture.
    """
    names = expand_estimators(estimators)
    options = {
        "skip_first": skip_first,
        "max_norm_multiple": max_norm_multiple,
        "theiler_window": theiler_window,
    }
    contexts = _contexts(cache)
    tables = []
    for module, about in cache.modules.items():
        if module in cache.activations:
            parts = _estimated(cache, module, names, options)
        else:
            parts = _stored(cache, module, names)
        for part in parts:
            labels = {"module": _kind(module), "layer": about["layer"]}
            tables.append(contexts.join(part.assign(**labels), on="row", how="inner"))
        logger.info(
            "estimated %d dimensions of %d contexts of %s", len(names), len(contexts), module
        )
    table = pd.concat(tables, ignore_index=True)
    return table.astype({"layer": "Int64"}).loc[:, COLUMNS]


def _contexts(cache: Cache) -> pd.DataFrame:
    """Return what is known of each context, one row each."""
    about = cache.attributes
    table = pd.DataFrame(
        {
            "model": about["model"],
            "revision": about["revision"],
            "corpus": about["corpus"],
            "row": np.arange(cache.n_rows),
            "document": cache.rows["document"],
            "chunk": cache.rows["chunk"],
        }
    )
    for name in ("loss", "entropy"):
        values = getattr(cache, name)  # (n, T - 1)
        table[f"{name}_nats"] = np.nan if values is None else values[:].mean(1, dtype=np.float64)
    return table


def _kind(module: str) -> str:
    """Return a module's key without its layer."""
    return module.rpartition("-l")[0] or module


def _estimated(
    cache: Cache, module: str, names: list[str], options: Mapping[str, Any]
) -> Iterator[pd.DataFrame]:
    """Yield the estimates of a module's cached clouds, a batch of contexts at a time."""
    clouds = cache.activations[module]  # (n, T, D)
    size = max(1, _BATCH_BYTES // (4 * int(np.prod(clouds.shape[1:]))))
    for start in range(0, len(clouds), size):
        found = estimate(clouds[start : start + size], names, **options)
        yield _long(names, found, start)


def _long(names: list[str], found: Estimates, start: int) -> pd.DataFrame:
    rows = np.arange(len(found.flags)) + start
    columns = {"n_eff": found.n_eff, "n_dup": found.n_dup, "flags": found.flags}
    return pd.concat(
        pd.DataFrame({"estimator": name, "id": found[name], **columns}, index=rows)
        for name in names
    )


def _stored(cache: Cache, module: str, names: list[str]) -> Iterator[pd.DataFrame]:
    """Yield what was estimated while the activations were captured."""
    columns = {key: getattr(cache, key)[module][:] for key in ("n_eff", "n_dup", "flags")}
    for name in names:
        yield pd.DataFrame({"estimator": name, "id": cache.ids[name][module][:], **columns})
