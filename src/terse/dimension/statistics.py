"""Statistics over many clouds, in which the document, not the chunk, is the unit.

Chunks of one document are not independent, so every error is computed from sums over documents
(cluster-robust; Liang & Zeger 1986, https://doi.org/10.1093/biomet/73.1.13).
"""

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from terse.dimension.runs import coded, runs
from terse.errors import TerseError

GROUP_COLUMNS = ["model", "revision", "module", "layer", "estimator"]

_PAIR_COLUMNS = ["document", "chunk"]


class PairedDifference(NamedTuple):
    """Mean of a - b over paired contexts.

    Attributes:
        mean, standard_error: of the difference; the error is over documents.
        low, high: 95 % interval (Student's t with n_documents - 1 degrees of freedom).
        n, n_documents: pairs and documents used.
        n_unpaired: contexts that only one side has, or whose dimension one side lacks.
        n_unequal: pairs left out since the two clouds differ in their number of points.
    """

    mean: float
    standard_error: float
    low: float
    high: float
    n: int
    n_documents: int
    n_unpaired: int
    n_unequal: int


def summarise(ids: pd.DataFrame) -> pd.DataFrame:
    """Return one row per model, revision, module, layer and estimator of a tidy table of IDs.

    Args:
        ids: columns model, revision, module, layer, estimator, document, id (NaN: undefined),
            id_without_sinks, flags, first_share.

    Returns:
        The group columns and mean, standard_error (over documents; NaN with fewer than two),
        median, n (defined), n_documents, n_undefined; mean_without_sinks and
        standard_error_without_sinks; n_sink, clouds that heavy points move by more than 5 %;
        first_share, the mean share of the variance in the first component (participation ratio).

    Raises:
        TerseError: a column is missing.
    """
    _need(ids, [*GROUP_COLUMNS, *_SUMMARISED])
    columns = {
        "document": pd.Categorical(ids["document"]).codes.astype(np.int64),
        "sink": has_word(pd.Series(ids["flags"]), "sink"),
    }
    for name in ("id", "id_without_sinks", "first_share"):
        columns[name] = ids[name].to_numpy(np.float64, na_value=np.nan)
    found = [
        {**dict(zip(GROUP_COLUMNS, key, strict=True)), **_summary(columns, rows)}
        for key, rows in _groups(ids)
    ]
    return pd.DataFrame(found, columns=pd.Index([*GROUP_COLUMNS, *_MEASURES]))


_SUMMARISED = ["document", "id", "id_without_sinks", "flags", "first_share"]
_MEASURES = [
    "mean", "standard_error", "mean_without_sinks", "standard_error_without_sinks", "median", "n",
    "n_documents", "n_undefined", "n_sink", "first_share",
]  # fmt: skip


def _groups(table: pd.DataFrame) -> Iterator[tuple[tuple[Any, ...], slice | np.ndarray]]:
    """Yield the values of `GROUP_COLUMNS` and the rows of each group, in order of appearance."""
    found = list(runs([coded(pd.Series(table[name]))[0] for name in GROUP_COLUMNS]))
    keys = table[GROUP_COLUMNS].iloc[[first for first, _ in found]]
    for key, (_, rows) in zip(keys.itertuples(index=False, name=None), found, strict=True):
        yield key, rows


def _summary(columns: dict[str, np.ndarray], rows: slice | np.ndarray) -> dict[str, float | int]:
    """Return the measures of a group: arrays of the whole table, since there are many groups."""
    values, documents = _defined(columns, "id", rows)
    light, light_documents = _defined(columns, "id_without_sinks", rows)
    shares, _ = _defined(columns, "first_share", rows)
    n_documents, number = _numbered(documents)
    return {
        "mean": _mean(values),
        "standard_error": _standard_error(values, n_documents, number),
        "mean_without_sinks": _mean(light),
        "standard_error_without_sinks": standard_error(light, light_documents),
        "median": float(np.median(values)) if len(values) else math.nan,
        "n": len(values),
        "n_documents": n_documents,
        "n_undefined": len(columns["id"][rows]) - len(values),
        "n_sink": int(np.count_nonzero(columns["sink"][rows])),
        "first_share": _mean(shares),
    }


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else math.nan


def _defined(
    columns: dict[str, np.ndarray], name: str, rows: slice | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return a group's values (n,) that are defined, and the numbers of their documents."""
    values, documents = columns[name][rows], columns["document"][rows]
    defined = ~np.isnan(values)
    return (values, documents) if defined.all() else (values[defined], documents[defined])


def has_word(flags: pd.Series, word: str) -> np.ndarray:
    """Return where a word is among flags (n,), words joined by ";"; missing ones have none."""
    codes, known = coded(flags)
    return np.array([word in str(words).split(";") for words in known], dtype=bool)[codes]


def standard_error(values: np.ndarray, documents: np.ndarray) -> float:
    """Return the cluster-robust standard error of the mean of `values` (n,).

    Args:
        values: (n,) finite numbers.
        documents: (n,) the document of each; NaN comes back with fewer than two.
    """
    return _standard_error(values, *_numbered(documents))


def _standard_error(values: np.ndarray, n_documents: int, place: np.ndarray) -> float:
    """Return the same from the number of documents and that of each value (n,)."""
    if n_documents < 2:
        return math.nan
    sums = np.bincount(place, weights=values - values.mean())
    return _error_of_mean(sums, n_documents, len(values))


def _error_of_mean(sums: np.ndarray, n_documents: int, n: int) -> float:
    """Return the error of n values' mean from the sums (D,) of each document's deviations."""
    inflation = n_documents / (n_documents - 1)
    return float(np.sqrt(inflation * (sums @ sums)) / n)


def _numbered(documents: np.ndarray) -> tuple[int, np.ndarray]:
    """Return how many documents there are, and a small whole number for each entry's (n,).

    Numbers are taken as they are, since sorting names would take most of the time.
    """
    if documents.dtype.kind == "i" and len(documents):
        low, high = int(documents.min()), int(documents.max())
        if low >= 0 and high < 16 * len(documents) + 1024:
            return int(np.count_nonzero(np.bincount(documents))), documents
    names, place = np.unique(documents, return_inverse=True)
    return len(names), place


def paired_difference(a: pd.DataFrame, b: pd.DataFrame, *, slack: float = 0.0) -> PairedDifference:
    """Compare two layers or two checkpoints on the contexts that both have.

    Only clouds with equally many points are compared, since every estimator's bias depends on it.

    Args:
        a, b: rows of one module and one estimator each; columns document, chunk, id, n_eff.
        slack: largest share of the points by which n_eff may differ, 0 to 1.

    Raises:
        TerseError: a column is missing, or a context occurs twice on one side.
    """
    columns = [*_PAIR_COLUMNS, "id", "n_eff"]
    for side in (a, b):
        _need(side, columns)
        if side.duplicated(_PAIR_COLUMNS).any():
            raise TerseError(
                "a context (document, chunk) occurs twice on one side; give the rows of one "
                "module and one estimator"
            )
    both = a[columns].merge(b[columns], on=_PAIR_COLUMNS, how="outer", suffixes=("_a", "_b"))
    return aligned_difference(
        both["id_a"].to_numpy(np.float64),
        both["id_b"].to_numpy(np.float64),
        both["n_eff_a"].to_numpy(np.float64),
        both["n_eff_b"].to_numpy(np.float64),
        Documents(pd.Categorical(both["document"]).codes.astype(np.int64)),
        slack=slack,
    )


class Documents:
    """The documents of contexts (n,), numbered and counted once for thousands of comparisons.

    Args:
        numbers: (n,) a whole number for each context's document.

    Attributes:
        place: (n,) the number of each context's document.
        sizes: (D,) the contexts of each number.
    """

    def __init__(self, numbers: np.ndarray) -> None:
        self._n_all, self.place = _numbered(numbers)
        self.sizes = np.bincount(self.place)

    def n_without(self, left_out: np.ndarray) -> int:
        """Return how many documents the contexts have but for some (k,)."""
        if not len(left_out):
            return self._n_all
        gone = np.bincount(self.place[left_out], minlength=len(self.sizes))
        return int(np.count_nonzero(self.sizes > gone))


def aligned_difference(
    a: np.ndarray,
    b: np.ndarray,
    n_a: np.ndarray,
    n_b: np.ndarray,
    documents: Documents,
    *,
    slack: float = 0.0,
) -> PairedDifference:
    """Return `paired_difference` of contexts (n,) in one order.

    Args:
        a, b: (n,) dimensions, NaN where undefined or missing.
        n_a, n_b: (n,) points of each cloud; NaN or below zero where a side lacks the context.
        documents: those of the contexts.
        slack: as `paired_difference`.
    """
    difference = a - b  # thousands of pairs of places are compared: few passes over each
    paired, larger = ~np.isnan(difference), np.fmax(n_a, n_b)
    equal = paired & (n_a == n_b if slack == 0 else np.abs(n_a - n_b) <= slack * larger)
    left_out = np.flatnonzero(~equal)
    n, n_documents = len(difference) - len(left_out), documents.n_without(left_out)
    kept = difference[equal] if len(left_out) else difference
    mean, error, reach = float(kept.mean()) if n else math.nan, math.nan, math.nan
    if n_documents > 1:
        deviation = difference - mean
        deviation[left_out] = 0
        sums = np.bincount(documents.place, weights=deviation)
        error = _error_of_mean(sums, n_documents, n)
        reach = error * _quantile(n_documents - 1)
    n_paired = int(np.count_nonzero(paired))
    return PairedDifference(
        mean=mean,
        standard_error=error,
        low=mean - reach,
        high=mean + reach,
        n=n,
        n_documents=n_documents,
        n_unpaired=int(np.count_nonzero(larger >= 0)) - n_paired,
        n_unequal=n_paired - n,
    )


@lru_cache(maxsize=256)
def _quantile(freedom: int) -> float:
    """Return the 97.5 % quantile of Student's t."""
    from scipy.special import stdtrit  # most figures need no scipy, and none its slow `stats`

    return float(stdtrit(freedom, 0.975))


def _need(table: pd.DataFrame, columns: list[str]) -> None:
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise TerseError(
            f"the table of dimensions lacks {', '.join(missing)}; it needs {', '.join(columns)}"
        )
