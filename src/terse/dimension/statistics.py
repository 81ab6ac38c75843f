"""Statistics over many clouds, in which the document, not the chunk, is the unit.

Chunks of one document are not independent, so every error is computed from sums over documents
(cluster-robust; Liang & Zeger 1986, https://doi.org/10.1093/biomet/73.1.13).
"""

import math
from typing import NamedTuple

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
    _need(ids, [*GROUP_COLUMNS, "document", "id", "id_without_sinks", "flags", "first_share"])
    rows = [
        {**dict(zip(GROUP_COLUMNS, key, strict=True)), **_summary(group)}
        for key, group in ids.groupby(GROUP_COLUMNS, dropna=False, sort=False)
        if isinstance(key, tuple)
    ]
    return pd.DataFrame(rows, columns=pd.Index([*GROUP_COLUMNS, *_MEASURES]))


_MEASURES = [
    "mean", "standard_error", "mean_without_sinks", "standard_error_without_sinks", "median", "n",
    "n_documents", "n_undefined", "n_sink", "first_share",
]  # fmt: skip


def _summary(group: pd.DataFrame) -> dict[str, float | int]:
    ids = np.asarray(group["id"], np.float64)
    values, documents = _defined(group, "id")
    light, light_documents = _defined(group, "id_without_sinks")
    shares = group["first_share"].dropna().to_numpy(np.float64)
    flags = group["flags"].fillna("").str.split(";")
    return {
        "mean": float(values.mean()) if len(values) else math.nan,
        "standard_error": standard_error(values, documents),
        "mean_without_sinks": float(light.mean()) if len(light) else math.nan,
        "standard_error_without_sinks": standard_error(light, light_documents),
        "median": float(np.median(values)) if len(values) else math.nan,
        "n": len(values),
        "n_documents": len(np.unique(documents)),
        "n_undefined": len(ids) - len(values),
        "n_sink": sum("sink" in words for words in flags),
        "first_share": float(shares.mean()) if len(shares) else math.nan,
    }


def _defined(group: pd.DataFrame, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the values (n,) of a column that are defined, and their documents."""
    values = np.asarray(group[column], np.float64)
    defined = ~np.isnan(values)
    return values[defined], np.asarray(group["document"])[defined]


def standard_error(values: np.ndarray, documents: np.ndarray) -> float:
    """Return the cluster-robust standard error of the mean of `values` (n,).

    Args:
        values: (n,) finite numbers.
        documents: (n,) the document of each; NaN comes back with fewer than two.
    """
    if len(values) == 0:
        return math.nan
    names, place = np.unique(documents, return_inverse=True)
    if len(names) < 2:
        return math.nan
    sums = np.bincount(place, weights=values - values.mean())  # (n_documents,)
    inflation = len(names) / (len(names) - 1)
    return float(np.sqrt(inflation * np.square(sums).sum()) / len(values))


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
    rho = _spearman(x, y)
    if len(names) < 3 or math.isnan(rho):
        return RankCorrelation(rho, math.nan, math.nan, len(x))
    members = np.split(np.argsort(place, kind="stable"), np.cumsum(np.bincount(place))[:-1])
    random = np.random.default_rng(seed)
    resampled = []
    for drawn in random.integers(len(names), size=(_N_RESAMPLES, len(names))):
        at = np.concatenate([members[document] for document in drawn])
        resampled.append(_spearman(x[at], y[at]))
    low, high = np.nanquantile(resampled, [0.025, 0.975])
    return RankCorrelation(rho, float(low), float(high), len(x))


def _spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Return Spearman's rho with average ranks, NaN where one side is constant."""
    if len(x) < 2:
        return math.nan
    from scipy import stats  # half a second, and most figures need none of it

    ranks_x = stats.rankdata(x) - (len(x) + 1) / 2
    ranks_y = stats.rankdata(y) - (len(y) + 1) / 2
    scale = math.sqrt(float(ranks_x @ ranks_x) * float(ranks_y @ ranks_y))
    return float(ranks_x @ ranks_y) / scale if scale > 0 else math.nan


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
    paired = both[both["id_a"].notna() & both["id_b"].notna()]
    apart = np.abs(paired["n_eff_a"] - paired["n_eff_b"])
    equal = paired[apart <= slack * paired[["n_eff_a", "n_eff_b"]].max(axis=1)]
    from scipy import stats

    difference = np.asarray(equal["id_a"] - equal["id_b"], np.float64)
    documents = np.asarray(equal["document"])
    error = standard_error(difference, documents)
    n_documents = len(np.unique(documents))
    mean = float(difference.mean()) if len(difference) else math.nan
    reach = error * float(stats.t.ppf(0.975, n_documents - 1)) if n_documents > 1 else math.nan
    return PairedDifference(
        mean=mean,
        standard_error=error,
        low=mean - reach,
        high=mean + reach,
        n=len(equal),
        n_documents=n_documents,
        n_unpaired=len(both) - len(paired),
        n_unequal=len(paired) - len(equal),
    )


def _need(table: pd.DataFrame, columns: list[str]) -> None:
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise TerseError(
            f"the table of dimensions lacks {', '.join(missing)}; it needs {', '.join(columns)}"
        )
