"""The picture of a frontier: bits per byte over what is held, and over FLOPs."""

import math
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

from terse.figures.style import GREY, WIDTH_IN, paper_style

# Okabe and Ito's colours that are visible on white, each with two line styles.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9")
_STYLES = ("-", "--")
_MARKERS = "osD^v<>PXp"
MOST = 10  # ways in colour
_AXES = {
    "positions_held_per_byte": "positions held per byte of context",
    "flops_per_byte": "FLOPs per byte of context and target",
}


def draw_frontier(scores: pd.DataFrame) -> Figure:
    """Return the picture from `scores.csv`: two panels, ten ways in colour, the rest grey.

    These are the ways with a point in the Pareto set, and then the best.

    Lines are ways over their rates, with the 95 % interval of their paired difference from `full`;
    rings mark the Pareto set of positions held and bits per byte; `full` and `none` are horizontal
    lines. Ways that lose more than twice as much as `none` are named at the upper edge.
    """
    values: Any = _points(scores)
    each = values.groupby("way").agg({"pareto": "max", "bits_per_byte": "mean"})
    order = each.sort_values(["pareto", "bits_per_byte"], ascending=[False, True]).index
    ways = [way for way in order if way not in ("full", "none")]
    with paper_style():
        figure = Figure(figsize=(WIDTH_IN, 3.9))
        for number, (measure, label) in enumerate(_AXES.items()):
            axes = figure.add_subplot(1, 2, number + 1)
            _draw_ends(axes, values)
            for rank, way in reversed(list(enumerate(ways))):
                _draw_way(axes, values[values["way"] == way], measure, way, rank)
            axes.set_xscale("log", base=2 if number == 0 else 10)
            if number == 1:
                axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                axes.xaxis.set_major_formatter(EngFormatter(sep=""))
                axes.xaxis.set_minor_formatter(NullFormatter())
            axes.set_xlabel(label)
            _name_far(axes, values, measure)
        figure.axes[0].set_ylabel("bits per byte of the target")
        _legend(figure, ways)
    return figure


def _points(scores: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each way and rate, with its measures and its interval around `full`."""
    scored: Any = scores[scores["rate"].notna()]
    values = scored.pivot(index=["way", "rate"], columns="measure", values="value")
    edges = scored[scored["measure"] == "bits_per_byte_minus_full"].set_index(["way", "rate"])
    full = float(values.loc["full", "bits_per_byte"].iloc[0])
    values["low"], values["high"] = full + edges["interval_low"], full + edges["interval_high"]
    return values.reset_index().sort_values(["way", "rate"])


def _draw_ends(axes: Axes, values: pd.DataFrame) -> None:
    for way, style in (("full", "-"), ("none", ":")):
        bits = float(values.loc[values["way"] == way, "bits_per_byte"].iloc[0])
        axes.axhline(bits, color="black", linewidth=0.8, linestyle=style, zorder=1)
        axes.annotate(
            way, (0.01, bits), xycoords=("axes fraction", "data"), fontsize=7, va="bottom"
        )


def _draw_way(axes: Axes, own: Any, measure: str, way: str, rank: int) -> None:
    front = rank < MOST
    colour = _COLOURS[rank % len(_COLOURS)] if front else GREY
    own = own[own[measure] > 0].sort_values(measure)
    axes.plot(
        own[measure], own["bits_per_byte"], color=colour, label=way if front else None,
        linestyle=_STYLES[rank // len(_COLOURS) % 2] if front else "-",
        marker=_MARKERS[rank % len(_MARKERS)] if front else ".",
        alpha=1.0 if front else 0.4, linewidth=1.3 if front else 0.7, zorder=3 if front else 2,
    )  # fmt: skip
    if front:
        if len(own) > 1:
            axes.fill_between(own[measure], own["low"], own["high"], color=colour, alpha=0.08, lw=0)
        else:
            axes.vlines(own[measure], own["low"], own["high"], color=colour, lw=0.8, alpha=0.6)
    best = own[own["pareto"] == 1.0]
    axes.plot(
        best[measure], best["bits_per_byte"], linestyle="none", marker="o", markersize=8,
        markerfacecolor="none", markeredgecolor="black", markeredgewidth=0.7, zorder=4,
    )  # fmt: skip


def _name_far(axes: Axes, values: Any, measure: str) -> None:
    """End the axis above `none`, as far from it as `full` is; name what lies beyond at its edge.

    Other readers than the study's, such as small models of bytes, would press all else together.
    """
    full, none = (
        float(values.loc[values["way"] == way, "bits_per_byte"].iloc[0]) for way in ("full", "none")
    )
    limit = none + max(none - full, 0.02 * full)
    far = values[(values["bits_per_byte"] > limit) & (values[measure] > 0)]
    if far.empty:
        return
    lowest = float(values[["bits_per_byte", "low"]].min(axis=None))
    axes.set_ylim(lowest - 0.05 * (limit - lowest), limit)
    nearest = far.loc[far.groupby("way")["bits_per_byte"].idxmin()].sort_values("bits_per_byte")
    for at, (x, bits, way) in enumerate(
        zip(nearest[measure], nearest["bits_per_byte"], nearest["way"], strict=True)
    ):
        place = axes.transAxes.inverted().transform(axes.transData.transform((x, limit)))[0]
        left = place > 1 / 3  # the name is there, and the arrow passes beside the names above it
        axes.annotate(
            f"{way} {bits:.1f}", (x, 1), xycoords=("data", "axes fraction"), fontsize=6,
            xytext=(-9 if left else 9, -12 - 9 * at), textcoords="offset points",
            ha="right" if left else "left", va="top",
            arrowprops={
                "arrowstyle": "->", "lw": 0.6, "shrinkA": 1, "shrinkB": 0,
                "relpos": (float(left), 0.5),
            },
        )  # fmt: skip


def _legend(figure: Figure, ways: list[str]) -> None:
    handles, labels = figure.axes[0].get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda i: ways.index(labels[i]))
    figure.legend(
        [handles[i] for i in order], [labels[i] for i in order], loc="outside lower center",
        ncols=min(4, max(1, math.ceil(len(order) / 3))),
        title="ring: no other point holds less and predicts better"
        + _further(len(ways) - MOST),
        title_fontsize=7,
    )  # fmt: skip


def _further(n: int) -> str:
    """Return what is said of n ways that have no colour of their own."""
    return "" if n < 1 else f"; grey: {n} further {'way' if n == 1 else 'ways'}"
