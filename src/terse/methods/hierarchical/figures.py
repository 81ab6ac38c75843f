"""Figures of hierarchical runs, drawn from their tables without torch."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from terse.figures.study import FinishedRun
from terse.figures.style import BLUE, GREY, ORANGE, WIDTH_IN, ordered_colours, paper_style
from terse.methods.hierarchical.settings import HierarchicalSettings

ARMS = ("two_part", "causal", "entropy_lm")
CODERS = ("xz", "xz_primed")
PASSAGE = 72  # symbols of a panel
SHOWN = {" ": "_", "\\n": "⏎", "<bos>": "▷", "<eos>": "◁"}


def draw(runs: Sequence[FinishedRun]) -> dict[str, Figure]:
    """Return the figures `scores` and `segmentation`."""
    return {"scores": scores(runs), "segmentation": segmentation(runs)}


def scores(runs: Sequence[FinishedRun]) -> Figure:
    """Draw each run's bits per byte by each likelihood, and lines for coders without a model."""
    baselines = runs[0].compared
    n_rows = len(ARMS) + len(baselines)
    with paper_style():
        figure = Figure(figsize=(WIDTH_IN, 0.6 + 0.55 * n_rows + 0.12 * len(runs)))
        ax = figure.subplots()
        offsets = np.linspace(-0.25, 0.25, len(runs)) if len(runs) > 1 else [0.0]
        colours = ordered_colours(len(runs))
        for run, offset, colour in zip(runs, offsets, colours, strict=True):
            rows = _bits_per_byte(run).reindex(list(ARMS))
            _points(ax, rows, np.arange(len(ARMS)) + offset, colour, _label(run))
        for i, other in enumerate(baselines):
            rows = _bits_per_byte(other).reindex(["model"])
            _points(ax, rows, np.array([len(ARMS) + i]), GREY, _label(other))
        _coder_lines(ax, runs[0])
        ax.set_yticks(range(n_rows), [*ARMS, *(other.name for other in baselines)])
        ax.set_ylim(-0.5, n_rows - 0.5)
        ax.set_xlabel("bits per byte")
        ax.legend(fontsize=5, loc="best")
    return figure


def _points(ax: Axes, rows: pd.DataFrame, places: NDArray[Any], colour: Any, label: str) -> None:
    errors = np.abs([rows["value"] - rows["interval_low"], rows["interval_high"] - rows["value"]])
    ax.errorbar(
        rows["value"], places, xerr=errors, fmt="o", color=colour, elinewidth=0.8, label=label
    )


def _label(run: FinishedRun) -> str:
    """Return a run's name with its FLOPs per byte, of causal decoding if it has that."""
    rows = run.evaluation[run.evaluation["measure"] == "flops_per_byte"].set_index("arm")["value"]
    for arm in ("causal", "model"):
        if arm in rows.index:
            return f"{run.name} ({rows.at[arm] / 1e6:.2f} M)"
    return run.name


def _coder_lines(ax: Axes, run: FinishedRun) -> None:
    values = _bits_per_byte(run)["value"]
    for coder, style in zip(CODERS, ("--", ":"), strict=True):
        if coder in values:
            ax.axvline(
                float(values.at[coder]), color=GREY, linestyle=style, linewidth=0.8, label=coder
            )


def _bits_per_byte(run: FinishedRun) -> pd.DataFrame:
    table = run.evaluation
    return table[table["measure"] == "bits_per_byte"].set_index("arm")


def segmentation(runs: Sequence[FinishedRun]) -> Figure:
    """Draw the start of a passage for each run: entropies as a curve, segments as boxes.

    Second stages cut as their bases do; those drawn together with their base are left out.
    """
    names = {run.name for run in runs}
    runs = [run for run in runs if not (_is_second(run) and run.settings.base in names)]
    with paper_style():
        figure = Figure(figsize=(WIDTH_IN, 1.5 * len(runs)))
        axes = np.atleast_1d(figure.subplots(len(runs), 1, squeeze=False).ravel())
        for ax, run in zip(axes, runs, strict=True):
            _passage(ax, run.tables["segmentation"].query("level == 0").head(PASSAGE))
            ax.set_title(run.name)
    return figure


def _is_second(run: FinishedRun) -> bool:
    return isinstance(run.settings, HierarchicalSettings) and run.settings.is_second_stage


def _passage(ax: Axes, rows: pd.DataFrame) -> None:
    entropies = rows["entropy_nats"].to_numpy()
    places = np.arange(len(rows))
    top = max(entropies.max() * 1.08, 0.1)
    starts = [*places[rows["opens"].to_numpy() == 1], len(rows)]
    for number, (start, stop) in enumerate(itertools.pairwise(starts)):
        ax.axvspan(
            start - 0.5, stop - 0.5, facecolor=BLUE if number % 2 else ORANGE, alpha=0.12,
            edgecolor=GREY, linewidth=0.4,
        )  # fmt: skip
    ax.plot(places, entropies, color=BLUE, marker=".", linewidth=0.9)
    symbols = [SHOWN.get(str(symbol), str(symbol)) for symbol in rows["symbol"]]
    ax.set_xticks(places, symbols, fontsize=5, family="monospace")
    ax.set_xlim(-0.5, len(rows) - 0.5)
    ax.set_ylim(0, top)
    ax.grid(False)
    ax.set_ylabel("entropy of the\nnext byte (nats)")
