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
_CHUNK_BITS = 32  # of a context's number; its chunk counts from 1 there, 0 if it is no context


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
    model, found, contexts = "", {}, _Contexts()
    for part in parts:
        if part.empty:
            continue
        model = model or str(part["model"].iloc[0])
        # Columns become arrays once: a place has few rows, and there are thousands of places.
        keys, values = contexts.keys(part), _values(part)
        for place, rows in _runs(part):
            own = {name: array[rows] for name, array in values.items()}
            found.setdefault(place, []).append((contexts.known_or(keys[rows]), own))
    if not found:
        raise TerseError("the table of dimensions has no rows")
    return _dense(model, found, contexts)


class _Contexts:
    """The contexts of a table, as whole numbers that stand for document and chunk."""

    def __init__(self) -> None:
        self.order = np.empty(0, np.int64)
        self._documents: dict[str, int] = {}

    def keys(self, part: pd.DataFrame) -> np.ndarray:
        """Return the number of each row's context (rows,)."""
        codes, names = pd.factorize(part["document"], use_na_sentinel=False)
        numbers = [self._documents.setdefault(str(n), len(self._documents)) for n in names]
        chunks = part["chunk"].fillna(-1).to_numpy(np.int64)
        return (np.array(numbers, np.int64)[codes] << _CHUNK_BITS) + chunks + 1

    def known_or(self, keys: np.ndarray) -> np.ndarray | None:
        """Return contexts (n,), None where they are all of the known ones, in their order."""
        if not len(self.order):
            self.order = keys.copy()
        if np.array_equal(keys, self.order):
            return None
        self.order = np.concatenate([self.order, keys[~np.isin(keys, self.order)]])
        return keys

    def index(self) -> pd.MultiIndex:
        """Return documents and chunks in the order of the columns."""
        documents = np.array(list(self._documents), dtype=object)
        numbers, chunks = np.divmod(self.order, 1 << _CHUNK_BITS)
        return pd.MultiIndex.from_arrays([documents[numbers], chunks - 1])


def _dense(
    model: str,
    found: dict[Place, list[tuple[np.ndarray | None, dict[str, np.ndarray]]]],
    contexts: _Contexts,
) -> Dimensions:
    known = contexts.index()
    if known.has_duplicates:
        raise _twice()
    shape = (len(found), len(known))
    arrays = {
        name: np.full(shape, nothing, np.float64 if nothing != nothing else np.int32)
        for name, nothing in _NOTHING.items()
    }
    places = pd.Index(contexts.order)
    for row, pieces in enumerate(found.values()):
        for keys, values in pieces:
            n = len(values["n_eff"])
            at = slice(n) if keys is None else places.get_indexer(pd.Index(keys))
            twice = keys is not None and len(np.unique(keys)) < n
            if twice or np.any(arrays["n_eff"][row, at] != _ABSENT):
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


def _runs(part: pd.DataFrame) -> Iterator[tuple[Place, slice | np.ndarray]]:
    """Yield each place with its rows of a table, a slice where each place's are together."""
    modules, module_names = pd.factorize(part["module"])
    estimators, estimator_names = pd.factorize(part["estimator"])
    layers = part["layer"].fillna(OUTSIDE).to_numpy(np.int64)
    codes = (modules * len(estimator_names) + estimators) * (layers.max(initial=0) + 2) + layers + 1
    order = None
    starts = _starts(codes)
    if len(starts) > len(np.unique(codes)):
        order = np.argsort(codes, kind="stable")
        starts = _starts(codes[order])
    for start, stop in zip(starts, [*starts[1:], len(codes)], strict=True):
        first = start if order is None else order[start]
        module, estimator = module_names[modules[first]], estimator_names[estimators[first]]
        rows = slice(start, stop) if order is None else order[start:stop]
        yield Place(str(module), str(estimator), int(layers[first])), rows


def _starts(codes: np.ndarray) -> np.ndarray:
    """Return where runs of equal numbers (n >= 1,) begin."""
    return np.flatnonzero(np.concatenate([[True], codes[1:] != codes[:-1]]))
