"""The table of a frontier: every way at every rate on the same targets, in one unit."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from terse.errors import TerseError
from terse.evaluation.scores import LN2, Floats, resampled
from terse.settings.frontier import CHEATS, ENDS, PLACES

LOWEST = 1 / 16  # rate from which the area under worth is taken
COLUMNS = (
    "way", "rate", "positions", "measure", "value", "interval_low", "interval_high", "n",
    "targets", "flag",
)  # fmt: skip
SUMMED = (
    "nats", "target_bytes", "context_bytes", "positions_held", "positions_computed", "flops",
    "bytes_held",
)  # fmt: skip
ENDINGS = tuple(f"_{place}" for place in PLACES)  # of the names of dimensions
COUNT = ":windows"  # of a dimension


@dataclass(frozen=True)
class Point:
    """A way at one rate: sums over the windows of each document, (D,) each."""

    way: str
    rate: float
    positions: str
    flag: str
    of: Mapping[str, Floats]


class Frontier:
    """The points of all ways that did not fail, and what is computed from them.

    readings: of each way, the table of `terse.evaluation.frontier.reading.read_all` with the
    columns `positions` and `flag`; a failed way has no window and only a flag. Intervals are from
    2000 resamples of documents, the same for all, so that differences are paired.
    """

    def __init__(self, readings: Mapping[str, pd.DataFrame], targets: str, seed: int = 0) -> None:
        self.targets, self.seed = targets, seed
        self.failed = {
            way: str(table["flag"].iloc[0]) for way, table in readings.items() if _failed(table)
        }
        for end in ENDS:
            if end in self.failed or end not in readings:
                reason = self.failed.get(end, "it is missing")
                raise TerseError(f"nothing can be compared: the way {end} failed ({reason})")
        self.documents = sorted(set(readings["full"]["document"]))
        scored = {w: t for w, t in readings.items() if w not in self.failed}
        _check_same_windows(scored)
        self.points = [point for way, table in scored.items() for point in self._points(way, table)]

    def _points(self, way: str, table: pd.DataFrame) -> list[Point]:
        found = []
        for rate, part in sorted(table.groupby("rate"), key=lambda item: -float(str(item[0]))):
            by_document: Any = part.groupby("document")
            sums = by_document[list(SUMMED)].sum(min_count=1).loc[self.documents]
            of = {name: sums[name].to_numpy(np.float64) for name in SUMMED}
            of |= _dimensions(by_document, self.documents)
            flag = part["flag"].iloc[0]
            about = (way, float(str(rate)), str(part["positions"].iloc[0]))
            found.append(Point(*about, "" if pd.isna(flag) else str(flag), of))
        return found

    @cached_property
    def draws(self) -> Floats:
        """How often each draw has each document, (draws, D)."""
        D = len(self.documents)
        blocks = list(resampled(D, self.seed))
        counts = [np.bincount(row, minlength=D) for row in np.concatenate(blocks)]
        return np.stack(counts).astype(np.float64)

    def point(self, way: str, rate: float | None = None) -> Point | None:
        """Return a way at a rate, None if it was not scored there."""
        found = [p for p in self.points if p.way == way and rate in (None, p.rate)]
        return found[0] if found else None

    @cached_property
    def _ends(self) -> tuple[Floats, Floats]:
        none, full = self.point("none"), self.point("full")
        assert none is not None
        assert full is not None
        return none.of["nats"], full.of["nats"]

    @cached_property
    def nothing_to_gain(self) -> bool:
        """Whether the context's worth is within its interval of zero."""
        none, full = self._ends
        low, high = np.quantile(self.draws @ (none - full), [0.025, 0.975])
        return bool(low <= 0 <= high)

    def table(self) -> pd.DataFrame:
        """Return `scores.csv`: a row for each way, rate and measure (`COLUMNS`)."""
        honest = [p for p in self.points if p.way.partition(".")[0] not in CHEATS]
        pareto = pareto_set([(_per_byte(p, "positions_held"), _bits(p)) for p in honest])
        chosen = {id(p) for p, is_best in zip(honest, pareto, strict=True) if is_best}
        rows = [
            row
            for point in self.points
            for row in [
                *self._of_point(point),
                self._row(point, "pareto", float(id(point) in chosen), math.nan, math.nan),
            ]
        ]
        ways = dict.fromkeys(p.way for p in self.points)
        rows += [self._area(way) for way in ways if way not in ENDS]
        missing = dict.fromkeys(("rate", "value", "interval_low", "interval_high"), math.nan)
        rows += [
            {"way": way, "measure": "failed", "targets": self.targets, "flag": why, **missing}
            for way, why in self.failed.items()
        ]
        return pd.DataFrame(rows, columns=list(COLUMNS))

    def _of_point(self, point: Point) -> list[dict[str, Any]]:
        of = point.of
        both = of["context_bytes"] + of["target_bytes"]
        ratios = {
            "bits_per_byte": (of["nats"] / LN2, of["target_bytes"]),
            "positions_held_per_byte": (of["positions_held"], of["context_bytes"]),
            "positions_computed_per_byte": (of["positions_computed"], both),
            "flops_per_byte": (of["flops"], both),
            "bytes_held_per_byte": (of["bytes_held"], of["context_bytes"]),
        }
        for other in ("full", "recency", "random"):
            base = self.point(other, None if other == "full" else point.rate)
            if base is not None and other != point.way and point.way != "none":
                difference = (of["nats"] - base.of["nats"]) / LN2
                ratios[f"bits_per_byte_minus_{other}"] = (difference, of["target_bytes"])
        rows = [self._ratio(point, name, *pair) for name, pair in ratios.items()]
        rows += [self._dimension(point, name) for name in of if name.endswith(ENDINGS)]
        return [*rows, self._worth(point)]

    def _ratio(
        self, point: Point, measure: str, top: Floats, bottom: Floats, draws: Floats | None = None
    ) -> dict[str, Any]:
        draws = self.draws if draws is None else draws
        drawn = (draws @ top) / (draws @ bottom)
        return self._row(point, measure, top.sum() / bottom.sum(), *_edges(drawn))

    def _dimension(self, point: Point, name: str) -> dict[str, Any]:
        """Return the mean of an estimate over the windows that have one; their documents are n."""
        counts, every = point.of[f"{name}{COUNT}"], point.of["windows"]
        if not counts.sum():
            row = self._row(point, name, math.nan, math.nan, math.nan)
        else:
            drawn = (self.draws @ counts) > 0
            row = self._ratio(point, name, point.of[name], counts, self.draws[drawn])
        few = f"of {counts.sum():.0f} of {every.sum():.0f} windows: {TOO_FEW}"
        complete = counts.sum() == every.sum()
        return row | {"n": int((counts > 0).sum()), "flag": row["flag"] if complete else few}

    def _worth(self, point: Point) -> dict[str, Any]:
        if self.nothing_to_gain:
            return self._row(point, "worth", math.nan, math.nan, math.nan, NO_GAIN)
        value, drawn = self.worth(point)
        return self._row(point, "worth", value, *_edges(drawn))

    def worth(self, point: Point) -> tuple[float, Floats]:
        """Return (none - point) / (none - full), and the same of each draw, (draws,)."""
        none, full = self._ends
        own = none - point.of["nats"]
        drawn = (self.draws @ own) / (self.draws @ (none - full))
        return float(own.sum() / (none - full).sum()), drawn

    def _area(self, way: str) -> dict[str, Any]:
        """Return the mean of worth over log2(rate) from 1/16 to 1, a way at rate 1 being `full`."""
        points = sorted((p for p in self.points if p.way == way), key=lambda p: p.rate)
        first, flag = points[0], ""
        if self.nothing_to_gain:
            flag = NO_GAIN
        elif len(points) < 2 or first.rate > LOWEST:
            flag = "not scored from 1/16 up"
        if flag:
            return self._row(first, "worth_area", math.nan, math.nan, math.nan, flag, math.nan)
        rates = [*(p.rate for p in points), 1.0]
        worths = [self.worth(p) for p in points]
        value = _mean_over_log(rates, np.array([[v for v, _ in worths] + [1.0]]))[0]
        drawn = np.stack([d for _, d in worths] + [np.ones(len(self.draws))], axis=1)
        edges = _edges(_mean_over_log(rates, drawn))
        return self._row(first, "worth_area", float(value), *edges, rate=math.nan)

    def _row(
        self, point: Point, measure: str, value: float, low: float, high: float, flag: str = "",
        rate: float | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        rate = point.rate if rate is None else rate
        values = (
            point.way, rate, point.positions, measure, float(value), low, high,
            len(self.documents), self.targets, flag or point.flag,
        )  # fmt: skip
        return dict(zip(COLUMNS, values, strict=True))


TOO_FEW = "the others hold too few positions to estimate a dimension, or too similar ones"
NO_GAIN = "what the context is worth is within its interval of zero"


def pareto_set(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Return which points no other one beats: lower or equal in both, and lower in one."""
    return [not any(a <= x and b <= y and (a, b) != (x, y) for a, b in points) for x, y in points]


def _mean_over_log(rates: Sequence[float], worth: Floats) -> Floats:
    """Return the mean over log2(rate) from `LOWEST` to 1 of worth (n, rates), linear between."""
    x = np.log2(rates)
    grid = np.unique(np.concatenate([[math.log2(LOWEST)], x[x >= math.log2(LOWEST)]]))
    on_grid = np.stack([np.interp(grid, x, row) for row in worth])
    return np.trapezoid(on_grid, grid, axis=1) / -math.log2(LOWEST)


def _dimensions(by_document: Any, documents: Sequence[str]) -> dict[str, Floats]:
    """Return the sum over windows of each estimated dimension, and how many windows have one."""
    names = [name for name in by_document.obj if str(name).endswith(ENDINGS)]
    if not names:
        return {}
    sums, counts = (getattr(by_document[names], how)().loc[documents] for how in ("sum", "count"))
    found = {name: sums[name].to_numpy(np.float64) for name in names}
    found["windows"] = by_document.size().loc[documents].to_numpy(np.float64)
    return found | {f"{name}{COUNT}": counts[name].to_numpy(np.float64) for name in names}


def _edges(drawn: Floats) -> tuple[float, float]:
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def _bits(point: Point) -> float:
    return float(point.of["nats"].sum() / LN2 / point.of["target_bytes"].sum())


def _per_byte(point: Point, name: str) -> float:
    return float(point.of[name].sum() / point.of["context_bytes"].sum())


def _failed(table: pd.DataFrame) -> bool:
    return bool(table["nats"].isna().all())


def _check_same_windows(readings: Mapping[str, pd.DataFrame]) -> None:
    """Refuse tables that were made from other windows than the first."""
    keys = ["window", "document", "context_bytes", "target_bytes"]
    first = readings["full"][keys].to_numpy().tolist()
    for way, table in readings.items():
        for _, part in table.groupby("rate"):
            if part[keys].to_numpy().tolist() != first:
                raise TerseError(f"the way {way} was scored on other windows: score it again")


def of_each_way(parts: Sequence[pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Return the table of each `way` from tables of parts of the windows, by window.

    A way that failed in any part has failed: of it only that row is returned.
    """
    if not parts:
        return {}
    tables = pd.concat(parts, ignore_index=True).groupby("way", sort=False)
    found = {}
    for way, table in tables:
        table = table.drop(columns="way").sort_values("window", kind="stable", ignore_index=True)
        why = table[table["nats"].isna()]
        found[str(way)] = table if why.empty else why.iloc[:1].reset_index(drop=True)
    return found


def wide(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table for reading: a row for each way and rate, the best first."""
    points: Any = table[table["measure"] != "failed"]
    shown: Any = points.pivot_table(
        index=["way", "rate", "positions", "targets"], columns="measure", values="value",
        dropna=False, sort=False,
    ).reset_index()  # fmt: skip
    shown = shown[shown.get("bits_per_byte", pd.Series(dtype=float)).notna()]
    edges = points[points["measure"] == "bits_per_byte"]
    for name in ("interval_low", "interval_high"):
        shown[name] = shown.merge(edges, on=["way", "rate"], how="left")[name].to_numpy()
    failed: Any = table[table["measure"] == "failed"][["way", "targets", "flag"]]
    flags = edges[["way", "rate", "flag"]]
    shown = shown.merge(flags, on=["way", "rate"], how="left").sort_values("bits_per_byte")
    first = ["way", "rate", "positions", "bits_per_byte", "interval_low", "interval_high", "worth"]
    rest = [name for name in shown if name not in (*first, "targets", "flag", "worth_area")]
    return pd.concat([shown[[*first, *rest, "targets", "flag"]], failed], ignore_index=True)
