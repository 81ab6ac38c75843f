"""Figures of compression runs, drawn from their tables without torch."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from terse.figures.study import FinishedRun
from terse.figures.style import BLUE, GREY, ORANGE, WIDTH_IN, ordered_colours, paper_style

ARMS = ("low", "static", "mean_pool", "shuffled", "compressed", "tail", "high")  # bottom to top
AXES = {
    "n_cmps": "vectors c",
    "cmp_len": "tokens k that they replace",
    "cmp_layer": "hidden state they are read from",
}
LINES = {"compressed": (BLUE, "o-"), "static": (GREY, "s--"), "tail": (ORANGE, "^:")}


def draw(runs: Sequence[FinishedRun]) -> dict[str, Figure]:
    """Return the figures `arms` and `recovery`."""
    return {"arms": arms(runs), "recovery": recovery(runs)}


def values_of(run: FinishedRun, measure: str) -> pd.DataFrame:
    """Return a measure's rows by arm."""
    table = run.evaluation
    return table[table["measure"] == measure].set_index("arm")


def arms(runs: Sequence[FinishedRun]) -> Figure:
    """Draw the loss of each arm, a panel for each length of context."""
    panels: dict[tuple[int, int], list[FinishedRun]] = {}
    for run in runs:
        panels.setdefault((_value(run, "n_context"), _value(run, "n_forward")), []).append(run)
    n_columns = min(3, len(panels))
    n_rows = math.ceil(len(panels) / n_columns)
    with paper_style():
        figure = Figure(figsize=(WIDTH_IN, 2.5 * n_rows))
        axes = np.atleast_1d(figure.subplots(n_rows, n_columns, squeeze=False).ravel())
        for ax, ((k, n), members) in zip(axes, panels.items(), strict=False):
            _arms_panel(ax, members)
            ax.set_title(f"k = {k}, then {n} tokens")
        for ax in axes[len(panels) :]:
            ax.set_visible(False)
    return figure


def _arms_panel(ax: Axes, runs: Sequence[FinishedRun]) -> None:
    colours = ordered_colours(len(runs))
    offsets = np.linspace(-0.3, 0.3, len(runs)) if len(runs) > 1 else [0.0]
    present: set[str] = set()
    for run, colour, offset in zip(runs, colours, offsets, strict=True):
        losses = values_of(run, "loss_nats")
        places = [i for i, arm in enumerate(ARMS) if arm in losses.index]
        chosen = losses.loc[[ARMS[i] for i in places]]
        present |= set(chosen.index)
        ax.errorbar(
            chosen["value"], np.array(places) + offset, xerr=_errors(chosen), fmt="o",
            color=colour, elinewidth=0.8, label=run.name,
        )  # fmt: skip
    ax.set_yticks(range(len(ARMS)), [arm if arm in present else "" for arm in ARMS])
    ax.set_xlabel("loss (nats per token)")
    if 1 < len(runs) <= 8:
        ax.legend(fontsize=5)


def recovery(runs: Sequence[FinishedRun]) -> Figure:
    """Draw the recovery against c, k and layer, a line per group that differs only in that.

    What does not vary has no panel; of runs that differ in none of them, c is drawn.
    """
    varying = [key for key in AXES if len({_value(run, key) for run in runs}) > 1]
    drawn = varying or list(AXES)[:1]
    with paper_style():
        figure = Figure(figsize=(WIDTH_IN * max(len(drawn), 2) / len(AXES), 2.5))
        axes = figure.subplots(1, len(drawn), sharey=True, squeeze=False)[0]
        for ax, key in zip(axes, drawn, strict=True):
            _recovery_panel(ax, runs, key)
            ax.set_xlabel(AXES[key])
            ax.axhline(0, color=GREY, linewidth=0.6)
        axes[0].set_ylabel("recovery R")
        handles, labels = axes[0].get_legend_handles_labels()
        if handles:
            unique = dict(zip(labels, handles, strict=True))
            axes[0].legend(unique.values(), unique.keys())
    return figure


def _recovery_panel(ax: Axes, runs: Sequence[FinishedRun], key: str) -> None:
    groups = [group for group in _groups(runs, key) if len({_value(r, key) for r in group}) > 1]
    drawn = groups or [list(runs)[:1]]
    found = {_value(run, key) for group in drawn for run in group}
    order = sorted(found, key=_place)
    for group in drawn:
        for arm, (colour, style) in LINES.items():
            _line(ax, group, arm, lambda run: order.index(_value(run, key)), colour, style)
    ax.set_xticks(range(len(order)), [str(value) for value in order])


def _line(
    ax: Axes,
    group: Sequence[FinishedRun],
    arm: str,
    place: Callable[[FinishedRun], int],
    colour: str,
    style: str,
) -> None:
    rows = [(place(run), values_of(run, "recovery")) for run in group]
    rows = [(x, table.loc[[arm]]) for x, table in rows if arm in table.index]
    if not rows:
        return
    xs = [x for x, _ in rows]
    table = pd.concat([row for _, row in rows])
    ax.errorbar(
        xs, table["value"], yerr=_errors(table), fmt=style[0], color=colour, elinewidth=0.7,
        label=arm,
    )  # fmt: skip
    values = table["value"].to_numpy()
    places = sorted(set(xs))
    means = [values[np.array(xs) == x].mean() for x in places]
    ax.plot(places, means, style[1:], color=colour, linewidth=1.0)


def _errors(rows: pd.DataFrame) -> np.ndarray:
    """Return the distances (2, rows) from the values to the ends of their intervals."""
    value = rows["value"]
    return np.abs([value - rows["interval_low"], rows["interval_high"] - value])


def _groups(runs: Sequence[FinishedRun], key: str) -> list[list[FinishedRun]]:
    """Return the runs in groups that differ only in `key` and the seed."""
    groups: dict[str, list[FinishedRun]] = {}
    for run in runs:
        settings = run.settings.model_dump(mode="json")
        # The window's length grows with k where the part after it keeps its length.
        rest = {k: v for k, v in settings.items() if k not in (key, "seed", "seq_len")}
        rest |= {"n_forward": _value(run, "n_forward")}
        groups.setdefault(str(sorted(rest.items(), key=str)), []).append(run)
    return list(groups.values())


def _value(run: FinishedRun, key: str) -> Any:
    return getattr(run.settings, key)


def _place(value: Any) -> tuple[int, float]:
    """Return a value's sort key: indices from the front, half, from the end, output."""
    if value == "half":
        return (1, 0.0)
    if value == "output":
        return (3, 0.0)
    return (0 if value >= 0 else 2, float(value))
