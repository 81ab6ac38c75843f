"""Figures of the report: their series, intervals and captions."""

import pandas as pd
import pytest

from terse.evaluation.proportions import wilson
from terse.figures.study import FinishedRun, figures_of, joined_tables
from terse.methods.blotching.figures import (
    by_length,
    by_temperature,
    joined,
    over_seeds,
    series_names,
)
from terse.methods.blotching.spec import BLOTCHING
from tiny_blotching import settings

_EMPTY: tuple[pd.DataFrame, dict[str, pd.DataFrame]] = (pd.DataFrame(), {})


def test_the_report_has_every_table_and_figure_with_its_caption(runs: list[FinishedRun]) -> None:
    tables = joined_tables(BLOTCHING, runs)
    assert set(tables) == {"answers", "by_length", "losses", "cost", "samples"}
    own = tables["answers"][tables["answers"]["run"] == "a"]
    assert len(own) == 3 + 3 + 3 + 3 + 3  # greedy, T 0.7, T 1, out of distribution, votes
    assert set(own["n_votes"]) == {1, 2}
    assert (own["accuracy_low"] <= own["accuracy"]).all()
    figures = figures_of(BLOTCHING, runs)
    assert set(figures) == {"intensity", "temperature", "length", "held-out", "losses"}
    labels = [text.get_text() for text in figures["intensity"].legends[0].get_texts()]
    assert labels == ["vanilla", "blind", "intensity", "intensity, label_smoothing 0.1"]
    assert series_names(runs)["b"] == "intensity"
    # A line all along for each arm that takes no requests.
    assert [line.get_linestyle() for line in figures["intensity"].axes[0].lines].count("--") == 2


def test_series_are_told_apart_by_what_is_not_the_commonest() -> None:
    def names(*layers: int) -> list[str]:
        found = [FinishedRun(str(i), settings(n_layers=n), *_EMPTY) for i, n in enumerate(layers)]
        return list(series_names(found).values())

    assert names(2, 2, 3) == ["intensity", "intensity", "intensity, n_layers 3"]
    assert names(2, 3) == ["intensity, n_layers 2", "intensity, n_layers 3"]


def test_every_arm_is_drawn_against_temperature_without_votes(runs: list[FinishedRun]) -> None:
    table = joined(runs, "answers")
    figure = by_temperature(table[table["n_votes"] == 1])
    assert len(figure.axes) == 3
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["vanilla", "blind", "intensity", "intensity, label_smoothing 0.1"]


def test_seeds_are_averaged_with_students_interval() -> None:
    table = pd.DataFrame({"series": "x", "accuracy": [0.4, 0.5, 0.6], "n_problems": 100})
    row = over_seeds(table, ["series"], "accuracy").iloc[0]
    assert row["mean"] == pytest.approx(0.5)
    assert row["high"] - row["mean"] == pytest.approx(4.302653 * 0.1 / 3**0.5, rel=1e-4)
    one = over_seeds(table[:1], ["series"], "accuracy").iloc[0]
    assert (one["low"], one["high"]) == wilson(40, 100)
    high = over_seeds(table.assign(accuracy=[0.9, 1.0, 1.0]), ["series"], "accuracy").iloc[0]
    assert high["low"] < 0.9 < high["high"] == 1


def test_problems_of_all_seeds_are_counted_together() -> None:
    table = pd.DataFrame(
        {"series": "intensity", "arm": "intensity", "requested_p": 0.0, "steps": 2,
         "accuracy": [0.4, 0.6], "n_problems": 10}
    )  # fmt: skip
    (bars,) = by_length(table).axes[0].containers
    low, high = bars.lines[2][0].get_segments()[0][:, 1]
    assert (low, high) == pytest.approx(wilson(10, 20))
