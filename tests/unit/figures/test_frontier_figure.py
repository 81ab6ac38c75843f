"""The picture of a frontier: ten ways in colour, the rest grey, bands around full."""

import math

import pandas as pd
import pytest

from terse.figures.frontier import MOST, draw_frontier
from terse.figures.style import GREY


def scores(n_ways: int) -> pd.DataFrame:
    """Return the scores of n ways at two rates, and of the ends."""
    rows = []
    for way, rate, bits in [
        ("full", 1.0, 1.0), ("none", 0.0, 2.0),
        *((f"way{i:02d}", rate, 1.1 + i / 100 + rate / 10) for i in range(n_ways)
          for rate in (0.5, 0.25)),
    ]:  # fmt: skip
        values = {
            "bits_per_byte": bits, "positions_held_per_byte": rate / 4,
            "flops_per_byte": 1e6 * (1 + rate), "pareto": float(way == "way00"),
            "bits_per_byte_minus_full": bits - 1.0,
        }  # fmt: skip
        rows += [
            {
                "way": way, "rate": rate, "measure": measure, "value": value,
                "interval_low": value - 0.05, "interval_high": value + 0.05,
            }
            for measure, value in values.items()
        ]  # fmt: skip
    area = {"way": "way00", "rate": math.nan, "measure": "worth_area", "value": 0.5}
    return pd.DataFrame([*rows, area])


def test_the_best_ways_are_in_colour_and_the_rest_grey() -> None:
    left, right = draw_frontier(scores(MOST + 3)).axes
    for axes in (left, right):
        coloured = [line for line in axes.get_lines() if str(line.get_label()).startswith("way")]
        assert GREY not in {line.get_color() for line in coloured}
        assert sum(line.get_color() == GREY for line in axes.get_lines()) == 3
        assert len(coloured) == MOST
        assert {line.get_label() for line in coloured} == {f"way{i:02d}" for i in range(MOST)}
        looks = {(line.get_color(), line.get_linestyle(), line.get_marker()) for line in coloured}
        assert len(looks) == MOST


def test_a_way_in_the_pareto_set_is_in_colour_however_it_predicts() -> None:
    table = scores(MOST + 3)
    worst = (table["way"] == f"way{MOST + 2:02d}") & (table["measure"] == "pareto")
    table.loc[worst & (table["rate"] == 0.25), "value"] = 1.0
    left, _ = draw_frontier(table).axes
    named = {str(line.get_label()) for line in left.get_lines()}
    assert f"way{MOST + 2:02d}" in named
    assert f"way{MOST - 1:02d}" not in named  # the last of the best makes room


def test_bands_are_the_paired_difference_from_full() -> None:
    left, _ = draw_frontier(scores(1)).axes
    (band,) = left.collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert heights.min() == pytest.approx(1.1 + 0.025 - 0.05)
    assert heights.max() == pytest.approx(1.1 + 0.05 + 0.05)


def test_the_ends_are_horizontal_lines() -> None:
    left, _ = draw_frontier(scores(1)).axes
    flat = {float(line.get_ydata()[0]) for line in left.get_lines() if line.get_color() == "black"}
    assert {1.0, 2.0} <= flat
    assert {text.get_text() for text in left.texts} == {"full", "none"}


def test_flops_are_written_out_between_powers_of_ten() -> None:
    _, right = draw_frontier(scores(1)).axes
    assert right.xaxis.get_major_formatter()(500_000) == "500k"


def test_a_way_far_beyond_none_is_named_at_the_edge_and_presses_nothing_together() -> None:
    table = scores(3)
    is_far = (table["way"] == "way02") & (table["measure"] == "bits_per_byte")
    table.loc[is_far, "value"] += 7
    for axes in draw_frontier(table).axes:
        low, high = axes.get_ylim()
        assert 0.8 < low < 1.0
        assert high == pytest.approx(3.0)  # as far above none as full is below it
        assert "way02 8.1" in {text.get_text() for text in axes.texts}


@pytest.mark.parametrize("flops", [1e4, 1e5, 1.5e6, 1e7])
def test_names_at_the_edge_stay_inside_their_panel(flops: float) -> None:
    table = scores(3)
    far = table[(table["way"] == "way02") & (table["rate"] == 0.5)].copy()
    far["way"] = "a_small_model_of_bytes"
    far.loc[far["measure"] == "bits_per_byte", "value"] = 9.0
    far.loc[far["measure"] == "flops_per_byte", "value"] = flops
    figure = draw_frontier(pd.concat([table, far]))
    figure.canvas.draw()
    for axes in figure.axes:
        (name,) = (text for text in axes.texts if text.get_text().startswith("a_small"))
        text, panel = name.get_window_extent(), axes.get_window_extent()
        assert panel.x0 <= text.x0
        assert text.x1 <= panel.x1
