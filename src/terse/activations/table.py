"""From cached activations to the tidy table of intrinsic dimensions."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from terse.activations.cache import Cache, Rows
from terse.dimension import Estimates, estimate
from terse.dimension.names import REPEATED, SLOW, expand_estimators
from terse.dimension.rare import cpus, slow_seconds
from terse.dimension.results import where_moved
from terse.errors import TerseError, unknown_name

logger = logging.getLogger(__name__)

COLUMNS = [
    "model", "revision", "corpus", "row", "document", "chunk", "module", "layer", "estimator",
    "id", "id_without_sinks", "n_eff", "n_dup", "n_heavy", "heaviest", "first_share", "flags",
    "loss_nats", "entropy_nats",
]  # fmt: skip
_BATCH_BYTES = 256 * 2**20
CLOUDS = ("context", "last_token", "means", "means_without_sinks")


def dimension_table(cache: Cache, estimators: Iterable[str], **options: Any) -> pd.DataFrame:
    """Return the parts of `dimension_parts` as one table, its words as strings."""
    table = pd.concat(dimension_parts(cache, estimators, **options), ignore_index=True)
    words = [name for name in COLUMNS if isinstance(table[name].dtype, pd.CategoricalDtype)]
    return table.astype(dict.fromkeys(words, object))


def dimension_parts(
    cache: Cache,
    estimators: Iterable[str],
    *,
    cloud: str = "context",
    skip_first: int = 0,
    max_norm_multiple: float | None = None,
    theiler_window: int = 0,
    slow_max_points: int | None = None,
) -> Iterator[pd.DataFrame]:
    """Yield a table for each module, with one row per estimator and cloud; words are categories.

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
    contexts = _contexts(cache) if cloud == "context" else _joined(_contexts(cache))
    kinds = {module: kind_of(module, about["layer"]) for module, about in cache.modules.items()}
    known = list(dict.fromkeys(kinds.values()))
    for module, about in cache.modules.items():
        part = _estimates(cache, module, cloud, names, options).tidy(names)
        kind = np.full(len(part), known.index(kinds[module]))
        layer = np.full(len(part), -1 if about["layer"] is None else about["layer"])
        place = {
            "module": pd.Categorical.from_codes(kind, known),
            "layer": pd.arrays.IntegerArray(layer, layer < 0),
        }
        of_context = contexts.take(part.index).reset_index(drop=True)
        logger.info("estimated %d dimensions of %d clouds of %s", len(names), len(contexts), module)
        joined = pd.concat([of_context, part.reset_index(drop=True).assign(**place)], axis=1)
        yield joined.loc[:, COLUMNS]


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


@dataclass(frozen=True)
class Clouds:
    """What was estimated of n clouds.

    Attributes:
        ids, without_sinks: (E, n) float64, of E estimators.
        columns: name -> (n,), what all estimators share, see `_PER_CLOUD`.
        flags: (n,) words joined by ";".
    """

    ids: np.ndarray
    without_sinks: np.ndarray
    columns: dict[str, np.ndarray]
    flags: Sequence[str] | np.ndarray

    def tidy(self, names: Sequence[str]) -> pd.DataFrame:
        """Return a row for each estimator and cloud, indexed by the cloud, from 0."""
        n_names, n = self.ids.shape
        estimator = np.repeat(np.arange(n_names), n)
        table = pd.DataFrame(
            {
                "estimator": pd.Categorical.from_codes(estimator, list(names)),
                "id": self.ids.ravel(),
                "id_without_sinks": self.without_sinks.ravel(),
                **{name: np.tile(column, n_names) for name, column in self.columns.items()},
                "flags": _own_flags(names, self.flags, where_moved(self.ids, self.without_sinks)),
            },
            index=np.tile(np.arange(n), n_names),
        )
        has_share = table["estimator"] == "participation_ratio"
        table["first_share"] = table["first_share"].where(has_share, np.nan)
        return table


def _own_flags(
    names: Sequence[str], flags: Sequence[str] | np.ndarray, decided: np.ndarray
) -> pd.Categorical:
    """Return the flags of each estimator and cloud (E * n,): some are an estimator's own.

    flags: (n,) words joined by ";". decided: (E, n), where heavy points decide the estimate.
    """
    codes, found = pd.factorize(np.asarray(flags, dtype=object))
    variants = [
        [_of_estimator(name, words, by_sink) for words in found for by_sink in (False, True)]
        for name in names
    ]
    known = list(dict.fromkeys(words for row in variants for words in row))
    place = np.array([[known.index(words) for words in row] for row in variants], dtype=np.int32)
    chosen = np.take_along_axis(place, 2 * codes + decided, axis=1)  # (E, n)
    return pd.Categorical.from_codes(chosen.ravel(), known)


def _of_estimator(name: str, flags: str, by_sink: bool) -> str:
    """Return the words that say something about one estimator."""
    foreign = {word for word, owners in _OWNED.items() if name not in owners} | {"sink"}
    others = [word for word in flags.split(";") if word and word not in foreign]
    return ";".join(sorted([*others, "sink"] if by_sink else others))


def _estimates(
    cache: Cache, module: str, cloud: str, names: list[str], options: Mapping[str, Any]
) -> Clouds:
    """Return the estimates of a module's clouds."""
    if cloud != "context":
        points = cloud_points(cache, module, cloud)[None]
        return _clouds(names, [estimate(points, names, **options)])
    if module in cache.activations:
        return _clouds(names, _estimated(cache, module, names, options))
    return _stored(cache, module, names)


def _clouds(names: list[str], batches: Iterable[Estimates]) -> Clouds:
    """Join what was estimated of batches of clouds."""
    found = list(batches)
    return Clouds(
        np.stack([np.concatenate([np.asarray(one[name]) for one in found]) for name in names]),
        np.stack([np.concatenate([one.without_sinks[name] for one in found]) for name in names]),
        {key: np.concatenate([getattr(one, key) for one in found]) for key in _PER_CLOUD},
        [words for one in found for words in one.flags],
    )


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
    same = {
        name: pd.Categorical([about[name]] * cache.n_rows, [about[name]] if about[name] else [])
        for name in ("model", "revision", "corpus")
    }
    rows = {
        "row": np.arange(cache.n_rows),
        "document": pd.Categorical(cache.rows["document"]),
        "chunk": cache.rows["chunk"],
    }
    table = pd.DataFrame({**same, **rows})
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
) -> Iterator[Estimates]:
    """Yield the estimates of a module's cached clouds, a batch of contexts at a time."""
    clouds = cache.activations[module]  # (n, T, D)
    size = max(1, _BATCH_BYTES // (4 * int(np.prod(clouds.shape[1:]))))
    for start in range(0, len(clouds), size):
        yield estimate(clouds[start : start + size], names, **options)


def long_table(names: list[str], found: Estimates, start: int) -> pd.DataFrame:
    """Return a row for each estimator and cloud of a batch, clouds numbered from `start`."""
    table = _clouds(names, [found]).tidy(names)
    return table.set_axis(table.index + start)


def _stored(cache: Cache, module: str, names: list[str]) -> Clouds:
    """Return the estimates that were made during the capture."""
    return Clouds(
        np.stack([cache.ids[name][module][:] for name in names]),
        np.stack([cache.ids_without_sinks[name][module][:] for name in names]),
        {key: getattr(cache, key)[module][:] for key in _PER_CLOUD},
        cache.flags[module][:],
    )


_OWNED = {"unstable": tuple(REPEATED), "subsampled": SLOW}
_PER_CLOUD = ("n_eff", "n_dup", "n_heavy", "heaviest", "first_share")
