"""The loss curves of a run show its history."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from terse.figures.style import save
from terse.figures.training import loss_curves
from terse.training.history import history_table

LOG = [
    {"step": 0, "epoch": 0.0, "eval_loss": 5.7},
    {"step": 2, "epoch": 0.1, "loss": 5.2, "learning_rate": 1e-3, "grad_norm": 1.0},
    {"step": 4, "epoch": 0.2, "loss": 4.1, "learning_rate": 5e-4, "grad_norm": 0.9},
    {"step": 4, "epoch": 0.2, "eval_loss": 4.6},
    {"step": 4, "epoch": 0.2, "train_runtime": 3.0},
]


def test_both_splits_and_the_rate_are_drawn_and_named(
    texts: Callable[[Figure], list[str]],
) -> None:
    figure = loss_curves(history_table(LOG))
    losses, rates = figure.axes
    lines = {str(line.get_label()): line for line in losses.lines}
    assert np.asarray(lines["training"].get_data()).tolist() == [[2, 4], [5.2, 4.1]]
    assert np.asarray(lines["validation"].get_data()).tolist() == [[0, 4], [5.7, 4.6]]
    assert np.asarray(rates.lines[0].get_data()).tolist() == [[2, 4], [1e-3, 5e-4]]
    words = texts(figure)
    for word in ("training", "validation", "loss (nats per token)", "learning rate"):
        assert word in words
    assert words.count("step") == 2


TERMS = [
    {**row, "loss": 10.0 + row["loss"], "loss_nats": row["loss"], "rmb_nats": 2.0,
     "static_nats": 3.0, "forget_rate": 0.5, "vq0_per_byte": 0.1}
    if "loss" in row else row
    for row in LOG
]  # fmt: skip


def test_the_objective_and_each_unit_have_panels_of_their_own(
    texts: Callable[[Figure], list[str]],
) -> None:
    figure = loss_curves(history_table(TERMS))
    panels = {axis.get_ylabel(): axis for axis in figure.axes}
    assert set(panels) == {
        "loss (nats per token)", "objective", "learning rate", "nats per token", "nats per byte",
        "forget rate",
    }  # fmt: skip
    assert np.asarray(panels["objective"].lines[0].get_ydata()).tolist() == [15.2, 14.1]
    assert np.asarray(panels["loss (nats per token)"].lines[0].get_ydata()).tolist() == [5.2, 4.1]
    assert [line.get_label() for line in panels["nats per token"].lines] == ["rmb", "static"]
    assert {"rmb", "static", "forget rate"} <= set(texts(figure))


def test_a_row_without_its_own_loss_does_not_borrow_the_objective() -> None:
    first, second = (row for row in TERMS if "loss" in row)
    of_the_copy = {name: value for name, value in first.items() if name != "loss_nats"}
    table = history_table([of_the_copy, second])
    np.testing.assert_array_equal(table["loss_nats"], [np.nan, 4.1])
    assert np.nanmax(loss_curves(table).axes[0].lines[0].get_ydata()) == 4.1  # type: ignore[arg-type]


def test_a_history_of_an_older_version_is_drawn() -> None:
    older = history_table(LOG).drop(columns="objective")
    assert len(loss_curves(older).axes) == 2


def test_a_run_too_short_for_a_training_row(texts: Callable[[Figure], list[str]]) -> None:
    assert "validation" in texts(loss_curves(history_table(LOG[:1])))


def test_drawn_twice_the_files_are_the_same(tmp_path: Path) -> None:
    history: pd.DataFrame = history_table(LOG)
    for name in ("first", "second"):
        save(loss_curves(history), [tmp_path / f"{name}.{kind}" for kind in ("svg", "pdf")])
    for kind in ("svg", "pdf"):
        first, second = (tmp_path / f"{name}.{kind}" for name in ("first", "second"))
        assert first.read_bytes() == second.read_bytes()
    assert len(list(tmp_path.iterdir())) == 4
