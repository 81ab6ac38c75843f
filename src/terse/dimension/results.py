"""What `estimate` returns."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from terse.errors import unknown_name

if TYPE_CHECKING:
    from terse.dimension.covariance import Linear

MOVED = 0.05
"""Relative change of an estimate from which on heavy points count as deciding it."""


def moved(value: float, without: float) -> bool:
    """Whether heavy points change an estimate by more than 5 %, or whether there is one."""
    if math.isnan(value) or math.isnan(without):
        return math.isnan(value) != math.isnan(without)
    return abs(value - without) > MOVED * abs(without)


def where_moved(ids: np.ndarray, without: np.ndarray) -> np.ndarray:
    """Return `moved` of each pair in two arrays of one shape, bool."""
    undefined, undefined_without = np.isnan(ids), np.isnan(without)
    apart = np.abs(ids - without) > MOVED * np.abs(without)  # no where one is NaN
    return apart | (undefined != undefined_without)


@dataclass
class CloudResult:
    """The result for one cloud; the fields are those of `Estimates`.

    `refusal` says why the whole cloud has no estimate, or ""; `places` (n_eff,) are the rows used,
    `light` (n_eff,) says which of them are not heavy. `without`, `errors_without` and
    `reasons_without` are `values`, `errors` and `reasons` without the heavy points.
    """

    n_eff: int
    n_dup: int
    flags: set[str]
    places: np.ndarray
    light: np.ndarray
    refusal: str = ""
    sinks: np.ndarray | None = None
    n_heavy: int = 0
    heaviest: float = math.nan
    first_share: float = math.nan
    first_share_without: float = math.nan
    values: dict[str, float] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    spreads: dict[str, float] = field(default_factory=dict)
    without: dict[str, float] = field(default_factory=dict)
    errors_without: dict[str, float] = field(default_factory=dict)
    reasons_without: dict[str, str] = field(default_factory=dict)
    distances: np.ndarray | None = None
    neighbours: np.ndarray | None = None
    local_ids: np.ndarray | None = None

    def set_linear(self, without: "Linear", everything: "Linear") -> None:
        """Take in the linear dimensions without the heavy points and of all."""
        self.values["participation_ratio"] = everything.participation
        self.without["participation_ratio"] = without.participation
        self.first_share = everything.first_share
        self.first_share_without = without.first_share


class Estimates(Mapping[str, float | np.ndarray]):
    """Intrinsic dimensions by estimator name; a float for one cloud, (B,) float64 for a batch.

    Attributes:
        n_eff: points used: int, or (B,) int64.
        n_dup: rows left out because they equal an earlier one: int, or (B,) int64.
        flags: words joined by ";", str or list of B str. `saturated`: mind_ml is at its cap;
            `duplicates`, `sinks`: points were left out; `sink`: a few heavy points move an estimate
            by more than 5 %; `float64`, `repaired`: how the distances were computed;
            `unstable`: KNN's draws spread over more than a tenth of their median; `subsampled`:
            the slow estimators took `slow_max_points` of the points;
            `nonfinite`, `too_few`, `equal_distances`, `underflow`, `failed`: why
            there is a NaN.
        reasons: by estimator, why the value is NaN ("" where it is not), str or list of B str.
        spreads: interquartile ranges over the draws of which the estimate is the median (KNN).
        n_heavy: points whose norm about the centre is beyond `max_norm_multiple` medians (8 where
            none is given, and they are at most an eighth): int, or (B,) int64.
        sinks: which points these are: (N,) or (B, N) bool.
        heaviest: the largest norm about the centre over the median: float, or (B,) float64.
        without_sinks: by estimator, the estimate with the heavy points left out; float or (B,).
        errors_without_sinks: the standard errors of these, as `errors`.
        reasons_without_sinks: by estimator, why that is NaN, as `reasons`.
        first_share: share of the variance in the first principal component, where
            `participation_ratio` is asked for (NaN otherwise); float or (B,).
        first_share_without_sinks: the same without the heavy points.
        errors: by estimator, the standard errors of those that have one (GRIDE).
        distances: (N, 21) or (B, N, 21) float64, ascending, NaN for points left out; on request.
        neighbours: int64 of the same shape, rows of the nearest points, -1 for points left out.
        local_ids: (N,) or (B, N) float64, 19 / S_i of each point, NaN if left out; on request.
    """

    def __init__(self, clouds: Sequence[CloudResult], single: bool) -> None:
        """Gather the results of one cloud (`single`) or of a batch, all of the same estimators."""
        self._single = single
        first = clouds[0]
        self._values = {
            name: self._column([c.values[name] for c in clouds]) for name in first.values
        }
        self.errors = {
            name: self._column([c.errors[name] for c in clouds]) for name in first.errors
        }
        self.reasons = {
            name: self._list([c.reasons.get(name, "") for c in clouds]) for name in first.values
        }
        self.spreads = {
            name: self._column([c.spreads[name] for c in clouds]) for name in first.spreads
        }
        self.without_sinks = {
            name: self._column([c.without[name] for c in clouds]) for name in first.values
        }
        self.errors_without_sinks = {
            name: self._column([c.errors_without[name] for c in clouds]) for name in first.errors
        }
        self.reasons_without_sinks = {
            name: self._list([c.reasons_without.get(name, "") for c in clouds])
            for name in first.values
        }
        self.n_heavy = self._column([c.n_heavy for c in clouds])
        self.heaviest = self._column([c.heaviest for c in clouds])
        self.first_share = self._column([c.first_share for c in clouds])
        self.first_share_without_sinks = self._column([c.first_share_without for c in clouds])
        self.n_eff = self._column([c.n_eff for c in clouds])
        self.n_dup = self._column([c.n_dup for c in clouds])
        self.flags = self._list([";".join(sorted(c.flags)) for c in clouds])
        self.sinks = self._stack([c.sinks for c in clouds])
        self.distances = self._stack([c.distances for c in clouds])
        self.neighbours = self._stack([c.neighbours for c in clouds])
        self.local_ids = self._stack([c.local_ids for c in clouds])

    def _column(self, values: list):
        return values[0] if self._single else np.array(values)

    def _list(self, words: list[str]) -> str | list[str]:
        return words[0] if self._single else words

    def _stack(self, arrays: Sequence[np.ndarray | None]) -> np.ndarray | None:
        given = [array for array in arrays if array is not None]
        if not given:
            return None
        return given[0] if self._single else np.stack(given)

    def __getitem__(self, name: str) -> float | np.ndarray:
        if name not in self._values:
            raise unknown_name("estimator in this result", name, self._values)
        return self._values[name]

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Estimates({self._values}, n_eff={self.n_eff}, flags={self.flags!r})"
