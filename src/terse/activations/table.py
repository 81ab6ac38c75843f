"""From cached activations to the tidy table of intrinsic dimensions."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from terse.activations.cache import Cache, Rows
from terse.dimension import Estimates, estimate
from terse.dimension.names import REPEATED, SLOW, expand_estimators
from terse.dimension.rare import cpus, slow_seconds
from terse.dimension.results import moved
from terse.errors import TerseError, unknown_name

logger = logging.getLogger(__name__)

COLUMNS = [
    "model", "revision", "corpus", "row", "document", "chunk", "module", "layer", "estimator",
    "id", "id_without_sinks", "n_eff", "n_dup", "n_heavy", "heaviest", "first_share", "flags",
    "loss_nats", "entropy_nats",
]  # fmt: skip
_BATCH_BYTES = 256 * 2**20
CLOUDS = ("context", "last_token", "means", "means_without_sinks")


def dimension_table(
    cache: Cache,
    estimators: Iterable[str],
    *,
    cloud: str = "context",
    skip_first: int = 0,
    max_norm_multiple: float | None = None,
    theiler_window: int = 0,
    slow_max_points: int | None = None,
) -> pd.DataFrame:
    """Return one row per cloud, module and estimator.

    Columns: `COLUMNS`; layer is missing outside the blocks; id is NaN if it is undefined, and
    flags say why; id_without_sinks leaves the n_heavy points out whose norm about the centre is
    beyond `max_norm_multiple` medians (8 where none is given; the largest is `heaviest`), and the
    flag `sink` is set where id differs from it by more than 5 %; first_share is the share of the
    variance in the first component, of participation_ratio; loss_nats and entropy_nats are means
    over the tokens of the cloud's contexts.
    Estimates from the cached tensors, or takes the estimates made during the capture.

    Args:
        cache: the cache of one model.
        estimators: names, see `terse.dimension.names`.
        cloud: "context", the T tokens of each context; "last_token", "means" or
            "means_without_sinks", one cloud of n points, one for each context: its row, document
            and chunk are missing.
        skip_first: tokens skipped at the start of each context.
        max_norm_multiple, theiler_window: see `terse.dimension.estimate`; a point's neighbours in
            time are the next tokens, or the next contexts.
        slow_max_points: see `terse.dimension.estimate`.

    Raises:
        TerseError: an unknown name, or the cache lacks the points of the clouds.
    """
    if cloud not in CLOUDS:
        raise unknown_name("cloud", cloud, CLOUDS)
    names = expand_estimators(estimators)
    options = {
        "skip_first": skip_first,
        "max_norm_multiple": max_norm_multiple,
        "theiler_window": theiler_window,
        "slow_max_points": slow_max_points,
    }
    _tell_time(cache, names, cloud, slow_max_points)
    contexts = _contexts(cache)
    if cloud != "context":
        contexts = _joined(contexts)
    tables = []
    for module, about in cache.modules.items():
        for part in _estimates(cache, module, cloud, names, options):
            labels = {"module": kind_of(module, about["layer"]), "layer": about["layer"]}
            tables.append(contexts.join(part.assign(**labels), how="inner"))
        logger.info("estimated %d dimensions of %d clouds of %s", len(names), len(contexts), module)
    table = pd.concat(tables, ignore_index=True)
    return table.astype({"layer": "Int64"}).loc[:, COLUMNS]


def _tell_time(cache: Cache, names: list[str], cloud: str, slow_max_points: int | None) -> None:
    """Log how long the slow estimators will take, before they start."""
    stored = [cache.activations[module] for module in cache.modules if module in cache.activations]
    shapes = [array.shape for array in stored]
    if cloud != "context":
        shapes = [(1, cache.n_rows)] * len(cache.modules)
    seconds = sum(
        n * slow_seconds(names, min(points, slow_max_points or points)) for n, points, *_ in shapes
    )
    if seconds:
        slow = ", ".join(name for name in names if name in SLOW)
        logger.info(
            "%s on %d clouds: about %.2g CPU hours on %d CPUs; slow_max_points limits the points",
            slow, sum(n for n, *_ in shapes), seconds / 3600, cpus(),
        )  # fmt: skip


def _estimates(
    cache: Cache, module: str, cloud: str, names: list[str], options: Mapping[str, Any]
) -> Iterator[pd.DataFrame]:
    """Yield the estimates of a module's clouds, indexed by the cloud."""
    if cloud != "context":
        points = cloud_points(cache, module, cloud)[None]
        yield long_table(names, estimate(points, names, **options), 0)
    elif module in cache.activations:
        yield from _estimated(cache, module, names, options)
    else:
        yield from _stored(cache, module, names)


def cloud_points(cache: Cache, module: str, cloud: str) -> np.ndarray:
    """Return one point (n, D) for each context: its last token, or a mean of its tokens.

    Raises:
        TerseError: the cache does not have them.
    """
    means = {"means": cache.means, "means_without_sinks": cache.means_without_sinks}
    if module in means.get(cloud, ()):
        return means[cloud][module][:]
    if cloud == "last_token" and module in cache.activations:
        return cache.activations[module].tokens(-1)
    if cloud == "last_token" and module in cache.last_tokens:
        return cache.last_tokens[module][:]
    raise TerseError(f"{cache.folder} has no {cloud} of {module}: it was made for other clouds")


def _contexts(cache: Cache) -> pd.DataFrame:
    """Return a table with one row per context: model, corpus, document, mean loss and entropy."""
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
        table[f"{name}_nats"] = np.nan if values is None else _row_means(values)
    return table


def _row_means(values: Rows) -> np.ndarray:
    """Return the means (n,) of the rows of an array (n, t), read in blocks."""
    size = max(1, _BATCH_BYTES // (8 * values.shape[1]))
    blocks = [
        values[start : start + size].mean(1, dtype=np.float64)
        for start in range(0, len(values), size)
    ]
    return np.concatenate(blocks)


def _joined(contexts: pd.DataFrame) -> pd.DataFrame:
    """Return the single row of a cloud of all contexts."""
    means = contexts[["loss_nats", "entropy_nats"]].mean()
    nowhere = {"row": pd.NA, "document": pd.NA, "chunk": pd.NA}
    return contexts.head(1).assign(**nowhere, **means)


def kind_of(module: str, layer: int | None) -> str:
    """Return a module's key without its layer."""
    return module if layer is None else module.removesuffix(f"-l{layer}")


def _estimated(
    cache: Cache, module: str, names: list[str], options: Mapping[str, Any]
) -> Iterator[pd.DataFrame]:
    """Yield the estimates of a module's cached clouds, a batch of contexts at a time."""
    clouds = cache.activations[module]  # (n, T, D)
    size = max(1, _BATCH_BYTES // (4 * int(np.prod(clouds.shape[1:]))))
    for start in range(0, len(clouds), size):
        found = estimate(clouds[start : start + size], names, **options)
        yield long_table(names, found, start)


def long_table(names: list[str], found: Estimates, start: int) -> pd.DataFrame:
    """Return a row for each estimator and cloud of a batch, clouds numbered from `start`."""
    rows = np.arange(len(found.flags)) + start
    columns = {key: getattr(found, key) for key in _PER_CLOUD}
    columns["flags"] = found.flags
    return pd.concat(
        _of_estimator(name, np.asarray(found[name]), found.without_sinks[name], columns, rows)
        for name in names
    )


def _stored(cache: Cache, module: str, names: list[str]) -> Iterator[pd.DataFrame]:
    """Yield the estimates that were made during the capture."""
    columns = {key: getattr(cache, key)[module][:] for key in (*_PER_CLOUD, "flags")}
    for name in names:
        ids, without = cache.ids[name][module][:], cache.ids_without_sinks[name][module][:]
        yield _of_estimator(name, ids, without, columns, np.arange(cache.n_rows))


_OWNED = {"unstable": tuple(REPEATED), "subsampled": SLOW}
_PER_CLOUD = ("n_eff", "n_dup", "n_heavy", "heaviest", "first_share")


def _of_estimator(
    name: str, ids: np.ndarray, without: np.ndarray, columns: Mapping[str, Any], rows: np.ndarray
) -> pd.DataFrame:
    """Return the rows of one estimator; some flags are an estimator's own."""
    table = pd.DataFrame(
        {"estimator": name, "id": ids, "id_without_sinks": without, **columns}, index=rows
    )
    decided = [moved(*pair) for pair in zip(ids, without, strict=True)]
    foreign = {word for word, owners in _OWNED.items() if name not in owners}
    others = [
        [word for word in flags.split(";") if word not in foreign | {"sink"}]
        for flags in table["flags"]
    ]
    table["flags"] = [
        ";".join(filter(None, sorted([*words, "sink"] if by_sink else words)))
        for words, by_sink in zip(others, decided, strict=True)
    ]
    if name != "participation_ratio":
        table["first_share"] = np.nan
    return table
