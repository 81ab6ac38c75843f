"""The dimensions of one model as dense arrays, a row per place and a column per context."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from terse.dimension.statistics import has_word
from terse.errors import TerseError

COLUMNS = [
    "model", "module", "layer", "estimator", "document", "chunk", "id", "id_without_sinks",
    "n_eff", "n_heavy", "flags",
]  # fmt: skip
OUTSIDE = -1
"""Stands for the layer of a module outside the blocks."""
_ABSENT = -1  # points of a cloud that is missing


class Place(NamedTuple):
    """What a dimension was estimated of, and how."""

    module: str
    estimator: str
    layer: int


@dataclass(frozen=True)
class Dimensions:
    """What comparisons need of one model's table.

    Attributes:
        model: its name.
        places: place -> row of the arrays, in the table's order.
        contexts: (n,) the document and chunk of each column.
        ids, light: (P, n) float64 with and without heavy points, NaN where undefined.
        n_eff, n_light: (P, n) int32, their points; -1 where the context is missing.
    """

    model: str
    places: dict[Place, int]
    contexts: pd.Index
    ids: np.ndarray
    light: np.ndarray
    n_eff: np.ndarray
    n_light: np.ndarray

    def ordered(self, contexts: pd.Index) -> "Dimensions":
        """Return the same with a column for each of other contexts, which hold all of these."""
        if contexts.equals(self.contexts):
            return self
        at = self.contexts.get_indexer(contexts)
        missing = at < 0
        arrays = {name: getattr(self, name)[:, at] for name in _NOTHING}
        for name, array in arrays.items():
            array[:, missing] = _NOTHING[name]
        return Dimensions(self.model, self.places, contexts, **arrays)


_NOTHING = {"ids": np.nan, "light": np.nan, "n_eff": _ABSENT, "n_light": _ABSENT}


def gathered(parts: Iterable[pd.DataFrame]) -> Dimensions:
    """Gather a table that comes in parts.

    Args:
        parts: of one model's tidy table, with `COLUMNS`; a place may be spread over several.

    Raises:
        TerseError: a context (document, chunk) occurs twice at a place, or there are no rows.
    """
    model, found, known = "", {}, None
    for part in parts:
        for place, rows in _runs(part):
            contexts = pd.MultiIndex.from_arrays([rows["document"].astype(str), rows["chunk"]])
            if known is None:
                known, model = contexts, str(rows["model"].iloc[0])
            elif not contexts.equals(known):
                known = known.append(contexts.difference(known, sort=False))
            found.setdefault(place, []).append((contexts, _values(rows)))
    if known is None:
        raise TerseError("the table of dimensions has no rows")
    return _dense(model, found, known)


def _dense(
    model: str,
    found: dict[Place, list[tuple[pd.Index, dict[str, np.ndarray]]]],
    known: pd.Index,
) -> Dimensions:
    if known.has_duplicates:
        raise _twice()
    shape = (len(found), len(known))
    arrays = {
        name: np.full(shape, nothing, np.float64 if nothing != nothing else np.int32)
        for name, nothing in _NOTHING.items()
    }
    for row, pieces in enumerate(found.values()):
        for contexts, values in pieces:
            at = slice(None) if contexts.equals(known) else known.get_indexer(contexts)
            if np.any(arrays["n_eff"][row, at] != _ABSENT) or contexts.has_duplicates:
                raise _twice()
            for name, array in arrays.items():
                array[row, at] = values[name]
        pieces.clear()
    return Dimensions(model, dict(zip(found, range(len(found)), strict=True)), known, **arrays)


def _twice() -> TerseError:
    return TerseError(
        "a context (document, chunk) occurs twice on one side; give the rows of one model"
    )


def _values(rows: pd.DataFrame) -> dict[str, np.ndarray]:
    n_eff = rows["n_eff"].to_numpy(np.int32)
    n_heavy = rows["n_heavy"].to_numpy(np.int32)
    left_out = has_word(pd.Series(rows["flags"]), "sinks")  # n_eff does not count them already
    return {
        "ids": rows["id"].to_numpy(np.float64),
        "light": rows["id_without_sinks"].to_numpy(np.float64),
        "n_eff": n_eff,
        "n_light": np.where(left_out, n_eff, n_eff - n_heavy),
    }


def _runs(part: pd.DataFrame) -> Iterator[tuple[Place, pd.DataFrame]]:
    """Take a table apart by place, without moving rows where each place's are together."""
    modules, module_names = pd.factorize(part["module"])
    estimators, estimator_names = pd.factorize(part["estimator"])
    layers = part["layer"].fillna(OUTSIDE).to_numpy(np.int64)
    codes = (modules * len(estimator_names) + estimators) * (layers.max(initial=0) + 2) + layers + 1
    starts = np.flatnonzero(np.concatenate([[True], codes[1:] != codes[:-1]]))[: len(codes)]
    if len(starts) > len(np.unique(codes)):
        order = np.argsort(codes, kind="stable")
        yield from _runs(part.iloc[order])
        return
    ends = np.append(starts[1:], len(codes))[: len(starts)]
    for start, stop in zip(starts, ends, strict=True):
        module, estimator = module_names[modules[start]], estimator_names[estimators[start]]
        yield Place(str(module), str(estimator), int(layers[start])), part.iloc[start:stop]
