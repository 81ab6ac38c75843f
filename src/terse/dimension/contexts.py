"""The dimensions of one model as dense arrays, a row per place and a column per context."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from terse.dimension.runs import coded, runs
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
        ids, light: P arrays (n,) float64 with and without heavy points, NaN where undefined.
        n_eff, n_light: P arrays (n,) int32, their points; -1 where the context is missing.

    Arrays may be those of the table that it was gathered from.
    """

    model: str
    places: dict[Place, int]
    contexts: pd.Index
    ids: list[np.ndarray]
    light: list[np.ndarray]
    n_eff: list[np.ndarray]
    n_light: list[np.ndarray]

    def ordered(self, contexts: pd.Index) -> "Dimensions":
        """Return the same with a column for each of other contexts, which hold all of these."""
        if contexts.equals(self.contexts):
            return self
        at = self.contexts.get_indexer(contexts)
        arrays = {
            name: [np.where(at < 0, nothing, row[at]) for row in getattr(self, name)]
            for name, nothing in _NOTHING.items()
        }
        return Dimensions(self.model, self.places, contexts, **arrays)


_NOTHING = {
    "ids": np.float64(np.nan), "light": np.float64(np.nan), "n_eff": np.int32(_ABSENT),
    "n_light": np.int32(_ABSENT),
}  # fmt: skip


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
        for place, rows in _places(part):
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
        self._names, self._numbers = pd.Index([]), np.empty(0, np.int64)

    def keys(self, part: pd.DataFrame) -> np.ndarray:
        """Return the number of each row's context (rows,)."""
        codes, names = coded(pd.Series(part["document"]))
        if not names.equals(self._names):  # which they are in most parts: thousands of names
            known = [self._documents.setdefault(str(n), len(self._documents)) for n in names]
            self._names, self._numbers = names, np.array(known, np.int64) << _CHUNK_BITS
        return self._numbers[codes] + part["chunk"].to_numpy(np.int64, na_value=-1) + 1

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
    arrays, places = {name: [] for name in _NOTHING}, pd.Index(contexts.order)
    for pieces in found.values():
        row = _row(pieces, places)
        for name, array in arrays.items():
            array.append(row[name])
        pieces.clear()
    return Dimensions(model, dict(zip(found, range(len(found)), strict=True)), known, **arrays)


def _row(
    pieces: list[tuple[np.ndarray | None, dict[str, np.ndarray]]], places: pd.Index
) -> dict[str, np.ndarray]:
    """Return the arrays (n,) of a place from its pieces; a piece that is all of it as it is."""
    if len(pieces) == 1 and pieces[0][0] is None and len(pieces[0][1]["n_eff"]) == len(places):
        return pieces[0][1]
    row = {name: np.full(len(places), nothing) for name, nothing in _NOTHING.items()}
    for keys, values in pieces:
        n = len(values["n_eff"])
        at = slice(n) if keys is None else places.get_indexer(pd.Index(keys))
        twice = keys is not None and len(np.unique(keys)) < n
        if twice or np.any(row["n_eff"][at] != _ABSENT):
            raise _twice()
        for name, array in row.items():
            array[at] = values[name]
    return row


def _twice() -> TerseError:
    return TerseError(
        "a context (document, chunk) occurs twice on one side; give the rows of one model"
    )


def _values(rows: pd.DataFrame) -> dict[str, np.ndarray]:
    n_eff = rows["n_eff"].to_numpy(np.int32)
    n_light = n_eff - rows["n_heavy"].to_numpy(np.int32)
    left_out = has_word(pd.Series(rows["flags"]), "sinks")
    n_light[left_out] = n_eff[left_out]  # which does not count them already
    return {
        "ids": rows["id"].to_numpy(np.float64),
        "light": rows["id_without_sinks"].to_numpy(np.float64),
        "n_eff": n_eff,
        "n_light": n_light,
    }


def _places(part: pd.DataFrame) -> Iterator[tuple[Place, slice | np.ndarray]]:
    """Yield each place with its rows of a table."""
    modules, module_names = coded(pd.Series(part["module"]))
    estimators, estimator_names = coded(pd.Series(part["estimator"]))
    layers = part["layer"].to_numpy(np.int64, na_value=OUTSIDE)
    for first, rows in runs((modules, estimators, layers)):
        module, estimator = module_names[modules[first]], estimator_names[estimators[first]]
        yield Place(str(module), str(estimator), int(layers[first])), rows
