"""The table of a frontier: differences, worth, area and the Pareto set of known numbers."""

import math

import pandas as pd
import pytest

from terse.errors import TerseError
from terse.evaluation.frontier.scores import LOWEST, Frontier, pareto_set, wide

D, BYTES = 12, 10


def reading(nats: dict[float, float], spread: float = 1.0, held: float = 8.0) -> pd.DataFrame:
    """Return two windows for each document, whose nats differ by document."""
    rows = [
        {
            "window": w, "document": f"d{w // 2}", "context_bytes": 100, "target_bytes": BYTES,
            "rate": rate, "nats": value + spread * (w // 2), "positions_held": held * rate,
            "positions_computed": 9.0, "flops": 100.0 * (1 + rate), "bytes_held": 4.0 * rate,
            "n_targets": 3, "positions_whole": held, "positions": "dense", "flag": "",
        }
        for rate, value in nats.items()
        for w in range(2 * D)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def readings(**more: pd.DataFrame) -> dict[str, pd.DataFrame]:
    return {"full": reading({1.0: 10.0}), "none": reading({0.0: 20.0}), **more}


def value(table: pd.DataFrame, way: str, measure: str, rate: float | None = None) -> pd.Series:
    chosen = table[(table["way"] == way) & (table["measure"] == measure)]
    if rate is not None:
        chosen = chosen[chosen["rate"] == rate]
    assert len(chosen) == 1
    return chosen.iloc[0]


def test_bits_worth_and_paired_differences() -> None:
    given = readings(recency=reading({0.5: 15.0}), snap=reading({0.5: 12.0}))
    table = Frontier(given, "these").table()
    mean = 12.0 + (D - 1) / 2
    assert value(table, "snap", "bits_per_byte")["value"] == pytest.approx(
        mean / math.log(2) / BYTES
    )
    assert value(table, "snap", "worth")["value"] == pytest.approx(0.8)
    assert set(table["targets"]) == {"these"}
    difference = value(table, "snap", "bits_per_byte_minus_recency")
    # Documents differ by far more than the ways do; pairing removes that.
    for column in ("value", "interval_low", "interval_high"):
        assert difference[column] == pytest.approx(-3.0 / math.log(2) / BYTES)
    own = value(table, "snap", "bits_per_byte")
    assert own["interval_low"] < own["value"] - 0.1 < own["value"] + 0.1 < own["interval_high"]


def test_costs_are_per_byte() -> None:
    table = Frontier(readings(x=reading({0.5: 12.0})), "t").table()
    assert value(table, "x", "positions_held_per_byte")["value"] == pytest.approx(0.04)
    assert value(table, "x", "flops_per_byte")["value"] == pytest.approx(150 / 110)
    assert value(table, "x", "bytes_held_per_byte")["value"] == pytest.approx(0.02)


def test_worth_is_missing_where_there_is_nothing_to_gain() -> None:
    given = readings()
    given["none"]["nats"] = given["full"]["nats"] + [1.0, -1.0] * D
    table = Frontier({**given, "x": reading({0.5: 9.0})}, "t").table()
    found = value(table, "x", "worth")
    assert math.isnan(found["value"])
    assert "within its interval of zero" in found["flag"]


def test_area_is_the_mean_worth_over_octaves() -> None:
    rates = {0.5: 10.0, 0.25: 10.0, 0.125: 20.0, LOWEST: 20.0}  # worth 1, 1, 0, 0; 1 at rate 1
    table = Frontier(readings(x=reading(rates), y=reading({0.5: 10.0})), "t").table()
    assert value(table, "x", "worth_area")["value"] == pytest.approx((1 + 1 + 0.5 + 0) / 4)
    assert math.isnan(value(table, "y", "worth_area")["value"])
    assert value(table, "y", "worth_area")["flag"] == "not scored from 1/16 up"


def test_pareto_set() -> None:
    points = [(1.0, 5.0), (2.0, 4.0), (2.0, 6.0), (3.0, 4.0), (0.0, 9.0), (0.0, 9.0)]
    assert pareto_set(points) == [True, True, False, False, True, True]


def test_what_has_seen_the_target_is_in_no_pareto_set() -> None:
    table = Frontier(readings(oracle=reading({0.5: 1.0}), x=reading({0.5: 12.0})), "t").table()
    assert value(table, "oracle", "pareto")["value"] == 0
    assert value(table, "x", "pareto")["value"] == 1


def test_a_failed_way_says_so_and_the_others_remain() -> None:
    failed = pd.DataFrame([{"nats": math.nan, "flag": "no cache"}])
    table = Frontier(readings(bad=failed, x=reading({0.5: 12.0})), "t").table()
    assert value(table, "bad", "failed")["flag"] == "no cache"
    assert value(table, "x", "worth")["value"] == pytest.approx(0.8)
    shown = wide(table)
    assert shown["bits_per_byte"].notna().sum() == 3
    assert shown.iloc[-1]["flag"] == "no cache"
    with pytest.raises(TerseError, match=r"the way full failed \(no cache\)"):
        Frontier({**readings(), "full": failed}, "t")


def test_other_windows_are_refused() -> None:
    other = reading({0.5: 12.0})
    other["target_bytes"] = 11
    with pytest.raises(TerseError, match="the way x was scored on other windows"):
        Frontier(readings(x=other), "t")
