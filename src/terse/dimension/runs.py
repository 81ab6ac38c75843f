"""Rows of a long table that belong together, found without sorting where they lie together."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import pandas as pd


def coded(words: pd.Series) -> tuple[np.ndarray, pd.Index]:
    """Return a number for each value (rows,), and the values, of which a missing one is one.

    Categories are taken as they are, also those without a row, unless some value is missing.
    """
    if isinstance(words.dtype, pd.CategoricalDtype):
        codes = words.cat.codes.to_numpy()
        if codes.min(initial=0) >= 0:
            return codes, words.cat.categories
    codes, names = pd.factorize(words, use_na_sentinel=False)
    return codes, pd.Index(names)


def runs(columns: Sequence[np.ndarray]) -> Iterator[tuple[int, slice | np.ndarray]]:
    """Yield the first row and all rows of each combination of numbers, in order of appearance.

    The rows are a slice if those of every combination lie together, as in the parts of a model's
    table, else indices.

    Args:
        columns: arrays (rows,) of whole numbers from -1.
    """
    starts, order = _starts(columns), None
    if len(starts) > len(np.unique(_joined([one[starts] for one in columns]))):
        order = np.argsort(pd.factorize(_joined(columns))[0], kind="stable")
        starts = _starts([one[order] for one in columns])
    for start, stop in pairwise([*starts, len(columns[0])]):
        if order is None:
            yield int(start), slice(start, stop)
        else:
            yield int(order[start]), order[start:stop]


def _joined(columns: Sequence[np.ndarray]) -> np.ndarray:
    """Return a number for each combination of numbers (rows,)."""
    joined = np.zeros(len(columns[0]), dtype=np.int64)
    for one in columns:
        joined = joined * (int(one.max(initial=0)) + 2) + one + 1
    return joined


def _starts(columns: Sequence[np.ndarray]) -> np.ndarray:
    changed = np.zeros(len(columns[0]), dtype=bool)
    changed[:1] = True
    for one in columns:
        changed[1:] |= one[1:] != one[:-1]
    return np.flatnonzero(changed)
