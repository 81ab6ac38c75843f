"""Figures of a training run."""

import math

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from terse.figures.style import BLUE, GREY, ORANGE, WIDTH_IN, ordered_colours, paper_style

COLUMNS = 3  # panels in a row
_NOT_DRAWN = {"step", "epoch", "split", "gradient_norm", "tokens_per_s"}
# Terms with one of these endings share a panel, since they share a unit.
_UNITS = {
    "_nats": "nats per token", "_per_byte": "nats per byte", "_objective": "parts of the objective",
}  # fmt: skip


def loss_curves(history: pd.DataFrame) -> Figure:
    """Draw a history against the step, each unit in a panel of its own.

    The cross-entropy of training and validation, the objective where it is something else, the
    learning rate, and the method's own terms.
    """
    train = history.loc[history["split"] == "train"]
    validation = history[history["split"] == "validation"]
    panels = _panels(train)
    n_rows = math.ceil((len(panels) + 1) / COLUMNS)
    with paper_style():
        figure = Figure(figsize=(WIDTH_IN, 2.0 * n_rows))
        axes = figure.subplots(n_rows, COLUMNS, squeeze=False).flat
        losses = next(axes)
        _curves(losses, train, {"loss_nats": "training"}, "loss (nats per token)")
        losses.plot(
            validation["step"], validation["loss_nats"], "o--", color=ORANGE, label="validation"
        )
        losses.legend()
        for (label, names), axis in zip(panels.items(), axes, strict=False):
            _curves(axis, train, names, label)
        for axis in figure.axes[len(panels) + 1 :]:
            axis.remove()
    return figure


def _panels(train: pd.DataFrame) -> dict[str, dict[str, str]]:
    """Return the panels beside the loss: {label of the y axis: {column: name of its curve}}."""
    panels: dict[str, dict[str, str]] = {}
    columns = [c for c in train if c not in _NOT_DRAWN and bool(train[c].notna().any())]
    for column in map(str, columns):
        if column == "loss_nats" or (column == "objective" and _same(train)):
            continue
        ending = next((e for e in _UNITS if column.endswith(e)), None)
        if ending is None:
            panels[column.replace("_", " ")] = {column: column}
        else:
            name = column.removesuffix(ending).replace("_", " ")
            panels.setdefault(_UNITS[ending], {})[column] = name
    return panels


def _same(train: pd.DataFrame) -> bool:
    return bool(train["objective"].equals(train["loss_nats"]))


def _curves(axis: Axes, train: pd.DataFrame, names: dict[str, str], label: str) -> None:
    single = {"learning_rate": GREY}
    colours = ordered_colours(len(names))
    for (column, name), colour in zip(names.items(), colours, strict=True):
        drawn = single.get(column, BLUE) if len(names) == 1 else colour
        axis.plot(train["step"], train[column], color=drawn, label=name)
    axis.set(xlabel="step", ylabel=label)
    if len(names) > 1:
        axis.legend()
    if train[list(names)].abs().max(axis=None) < 1e-2:
        axis.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
