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

from terse.errors import TerseError

GROUP_COLUMNS = ["model", "revision", "module", "layer", "estimator"]

_N_RESAMPLES = 2000
_PAIR_COLUMNS = ["document", "chunk"]


class RankCorrelation(NamedTuple):
    """Spearman's rho, its 95 % interval, and the number of contexts it comes from."""

    rho: float
    low: float
    high: float
    n: int


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
    rows = [
        {**dict(zip(GROUP_COLUMNS, key, strict=True)), **_summary(group)}
        for key, group in _groups(ids)
    ]
    return pd.DataFrame(rows, columns=pd.Index([*GROUP_COLUMNS, *_MEASURES]))


_SUMMARISED = ["document", "id", "id_without_sinks", "flags", "first_share"]
_MEASURES = [
    "mean", "standard_error", "mean_without_sinks", "standard_error_without_sinks", "median", "n",
    "n_documents", "n_undefined", "n_sink", "first_share",
]  # fmt: skip


def _groups(table: pd.DataFrame) -> Iterator[tuple[tuple[Any, ...], pd.DataFrame]]:
    """Yield the values of `GROUP_COLUMNS` and the rows of each group, in order of appearance.

    Rows that lie together are not moved, as pandas' `groupby` would.
    """
    code = np.zeros(len(table), dtype=np.int64)
    for name in GROUP_COLUMNS:
        own, known = pd.factorize(table[name], use_na_sentinel=False)
        code = code * len(known) + own
    code = pd.factorize(code)[0]
    if np.any(code[1:] < code[:-1]):
        order = np.argsort(code, kind="stable")
        code, table = code[order], table.iloc[order]
    starts = np.flatnonzero(np.concatenate([[True], code[1:] != code[:-1]]))[: len(code)]
    columns = table[_SUMMARISED]
    keys = table[GROUP_COLUMNS].iloc[starts].itertuples(index=False, name=None)
    ends = np.append(starts[1:], len(code))[: len(starts)]
    for key, start, stop in zip(keys, starts, ends, strict=True):
        yield key, columns.iloc[start:stop]


def _summary(group: pd.DataFrame) -> dict[str, float | int]:
    ids = np.asarray(group["id"], np.float64)
    values, documents = _defined(group, "id")
    light, light_documents = _defined(group, "id_without_sinks")
    shares = group["first_share"].dropna().to_numpy(np.float64)
    return {
        "mean": float(values.mean()) if len(values) else math.nan,
        "standard_error": standard_error(values, documents),
        "mean_without_sinks": float(light.mean()) if len(light) else math.nan,
        "standard_error_without_sinks": standard_error(light, light_documents),
        "median": float(np.median(values)) if len(values) else math.nan,
        "n": len(values),
        "n_documents": _numbered(documents)[0],
        "n_undefined": len(ids) - len(values),
        "n_sink": int(has_word(pd.Series(group["flags"]), "sink").sum()),
        "first_share": float(shares.mean()) if len(shares) else math.nan,
    }


def _defined(group: pd.DataFrame, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the values (n,) of a column that are defined, and the numbers of their documents."""
    values = np.asarray(group[column], np.float64)
    documents = pd.Categorical(group["document"]).codes.astype(np.int64)
    defined = ~np.isnan(values)
    return values[defined], documents[defined]


def has_word(flags: pd.Series, word: str) -> np.ndarray:
    """Return where a word is among flags (n,), words joined by ";"; missing ones have none."""
    if isinstance(flags.dtype, pd.CategoricalDtype):
        codes, known = flags.cat.codes.to_numpy(), flags.cat.categories
    else:
        codes, known = pd.factorize(flags)
    holds = np.array([word in str(words).split(";") for words in known] + [False])
    return holds[codes]  # a missing one has the code -1


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
    inflation = n_documents / (n_documents - 1)
    return float(np.sqrt(inflation * (sums @ sums)) / len(values))


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


def rank_correlation(
    x: np.ndarray, y: np.ndarray, groups: np.ndarray, seed: int
) -> RankCorrelation:
    """Return Spearman's rank correlation with a 95 % bootstrap interval over documents.

    Args:
        x, y: (n,) such as ID and loss per context; pairs with a NaN are left out of `n`.
        groups: (n,) the document of each context; whole documents are resampled.
        seed: of the 2000 resamples.

    Raises:
        TerseError: the arrays differ in length.
    """
    x, y, groups = np.asarray(x, np.float64), np.asarray(y, np.float64), np.asarray(groups)
    if not len(x) == len(y) == len(groups):
        raise TerseError(
            f"x, y and groups have lengths {len(x)}, {len(y)}, {len(groups)}; they must be equal"
        )
    defined = np.isfinite(x) & np.isfinite(y)
    x, y = x[defined], y[defined]
    names, place = np.unique(groups[defined], return_inverse=True)
    by_x = np.argsort(x, kind="stable")  # so that 2000 times one side is in order
    x, y, place = x[by_x], y[by_x], place[by_x]
    rho = _spearman(x, y)
    if len(names) < 3 or math.isnan(rho):
        return RankCorrelation(rho, math.nan, math.nan, len(x))
    of_weights = _WeightedRanks(x, y)
    random = np.random.default_rng(seed)
    resampled = []
    for _ in range(_N_RESAMPLES):
        drawn = random.integers(len(names), size=len(names))
        resampled.append(of_weights.correlation(np.bincount(drawn, minlength=len(names))[place]))
    low, high = np.nanquantile(resampled, [0.025, 0.975])
    return RankCorrelation(rho, float(low), float(high), len(x))


class _WeightedRanks:
    """Spearman's rho of pairs that occur several times each, without sorting them again.

    Args:
        x, y: (n,) finite numbers.
    """

    def __init__(self, x: np.ndarray, y: np.ndarray) -> None:
        self._sides = [_Order(x), _Order(y)]

    def correlation(self, weights: np.ndarray) -> float:
        """Return rho where pair i occurs weights[i] times, (n,) whole numbers; NaN if constant."""
        total = int(weights.sum())
        if total < 2:
            return math.nan
        a, b = (side.ranks(weights) - (total + 1) / 2 for side in self._sides)
        scale = math.sqrt(float(weights @ (a * a)) * float(weights @ (b * b)))
        return float(weights @ (a * b)) / scale if scale > 0 else math.nan


class _Order:
    """The order of numbers (n,), in which equal ones are one group."""

    def __init__(self, values: np.ndarray) -> None:
        self._order: np.ndarray | None = np.argsort(values, kind="stable")
        ordered = values[self._order]
        first = np.concatenate([[True], ordered[1:] != ordered[:-1]])
        self._starts = np.flatnonzero(first)
        self._group = np.empty(len(values), dtype=np.int64)
        self._group[self._order] = np.cumsum(first) - 1
        self._distinct = bool(first.all())
        if np.array_equal(self._order, np.arange(len(values))):
            self._order = None

    def ranks(self, weights: np.ndarray) -> np.ndarray:
        """Return the average rank (n,) of each, where each occurs `weights` times."""
        sizes = weights if self._order is None else weights[self._order]
        if not self._distinct:
            sizes = np.add.reduceat(sizes, self._starts)
        ranks = np.cumsum(sizes) - (sizes - 1) / 2
        return ranks if self._distinct and self._order is None else ranks[self._group]


def _spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Return Spearman's rho with average ranks, NaN where one side is constant."""
    if len(x) < 2:
        return math.nan
    return _WeightedRanks(x, y).correlation(np.ones(len(x), dtype=np.int64))


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
        pd.Categorical(both["document"]).codes.astype(np.int64),
        slack=slack,
    )


def aligned_difference(
    a: np.ndarray,
    b: np.ndarray,
    n_a: np.ndarray,
    n_b: np.ndarray,
    documents: np.ndarray,
    *,
    slack: float = 0.0,
) -> PairedDifference:
    """Return `paired_difference` of contexts (n,) in one order.

    Args:
        a, b: (n,) dimensions, NaN where undefined or missing.
        n_a, n_b: (n,) points of each cloud; NaN or below zero where a side lacks the context.
        documents: (n,) the document's number of each context.
        slack: as `paired_difference`.
    """
    difference = a - b  # thousands of pairs of places are compared: few passes over each
    paired, larger = ~np.isnan(difference), np.fmax(n_a, n_b)
    equal = paired & (n_a == n_b if slack == 0 else np.abs(n_a - n_b) <= slack * larger)
    if not equal.all():
        difference, documents = difference[equal], documents[equal]
    n_documents, place = _numbered(documents)
    error = _standard_error(difference, n_documents, place)
    mean = float(difference.mean()) if len(difference) else math.nan
    reach = error * _quantile(n_documents - 1) if n_documents > 1 else math.nan
    n_paired = int(np.count_nonzero(paired))
    return PairedDifference(
        mean=mean,
        standard_error=error,
        low=mean - reach,
        high=mean + reach,
        n=len(difference),
        n_documents=n_documents,
        n_unpaired=int(np.count_nonzero(larger >= 0)) - n_paired,
        n_unequal=n_paired - len(difference),
    )


@lru_cache(maxsize=256)
def _quantile(freedom: int) -> float:
    """Return the 97.5 % quantile of Student's t."""
    from scipy import stats  # half a second, and most figures need none of it

    return float(stats.t.ppf(0.975, freedom))


def _need(table: pd.DataFrame, columns: list[str]) -> None:
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise TerseError(
            f"the table of dimensions lacks {', '.join(missing)}; it needs {', '.join(columns)}"
        )
