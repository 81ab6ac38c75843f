"""Figures of forgetting runs, drawn from their tables without torch."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from terse.figures.study import FinishedRun
from terse.figures.style import BLUE, GREEN, GREY, ORANGE, WIDTH_IN, ordered_colours, paper_style

ARMS = {
    "mask": (BLUE, "o-"),
    "random": (GREY, "s--"),
    "recency": (ORANGE, "^--"),
    "sink_recency": (ORANGE, "v:"),
    "norm": ("#CC79A7", "x:"),
    "surprisal": (GREEN, "d--"),
    "saliency": ("#000000", "*:"),
}
OFF_SCALE = 1.1  # times the identity's score: an oracle always above it is named, not drawn
LINE_WIDTH, LINES = 96, 8  # characters and lines of a passage
SHADES = LinearSegmentedColormap.from_list("keep", ["#ffffff", "#6baed6"])


def draw(runs: Sequence[FinishedRun]) -> dict[str, Figure]:
    """Return the figures `bits_per_byte`, `cost_by_rate` and `passage`."""
    return {
        "bits_per_byte": bits_per_byte(runs),
        "cost_by_rate": cost_by_rate(runs),
        "passage": passage(runs),
    }


def curves(run: FinishedRun, measure: str = "bits_per_byte") -> dict[str, pd.DataFrame]:
    """Return each arm's values by forget rate, and `identity` and `base` without one."""
    table = run.evaluation[run.evaluation["measure"] == measure]
    arms: Any = table["arm"]
    parts = arms.str.extract(r"^(?P<name>.+?)(?:-f(?P<rate>[0-9.]+))?$")
    table = table.assign(name=parts["name"], rate=parts["rate"].astype(float))
    return {str(name): rows.sort_values("rate") for name, rows in table.groupby("name")}


def seeds_apart(runs: Sequence[FinishedRun]) -> dict[str, list[FinishedRun]]:
    """Return the runs in groups that differ only in the seed, by group."""
    groups: dict[str, list[FinishedRun]] = {}
    for run in runs:
        rest = {k: v for k, v in run.settings.model_dump(mode="json").items() if k != "seed"}
        groups.setdefault(str(sorted(rest.items(), key=str)), []).append(run)
    return {label_of(group): group for group in groups.values()}


def label_of(group: Sequence[FinishedRun]) -> str:
    """Return a title for runs that differ only in the seed."""
    if len(group) == 1:
        return group[0].name
    return f"{group[0].name.rpartition('-')[0]} ({len(group)} seeds)"


def bits_per_byte(runs: Sequence[FinishedRun]) -> Figure:
    """Draw bits per byte against the forget rate, a panel for each group of seeds."""
    groups = seeds_apart(runs)
    with paper_style():
        figure, axes = _panels(len(groups))
        for ax, (label, group) in zip(axes, groups.items(), strict=True):
            _curves_panel(ax, group)
            ax.set_title(label)
        axes[0].legend(fontsize=6)
    return figure


def _panels(n: int) -> tuple[Figure, list[Axes]]:
    n_columns = min(2, n)
    n_rows = -(-n // n_columns)
    figure = Figure(figsize=(WIDTH_IN, 2.8 * n_rows))
    axes = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
    for ax in axes[n:]:
        ax.set_visible(False)
    return figure, list(axes[:n])


def _curves_panel(ax: Axes, group: Sequence[FinishedRun]) -> None:
    found = [curves(run, "over_identity_bits_per_byte") for run in group]
    for curve, run in zip(found, group, strict=True):
        curve["identity"] = curves(run)["identity"]
    whole = float(np.mean([c["identity"]["value"].iloc[0] for c in found]))
    ax.axhline(whole, color=GREY, linewidth=0.8, label="identity")
    if all("base" in c for c in found):
        before = whole + float(np.mean([c["base"]["value"].iloc[0] for c in found]))
        ax.axhline(before, color=GREY, linewidth=0.8, linestyle=":", label="base")
    for arm, (colour, style) in ARMS.items():
        tables = [c[arm] for c in found if arm in c]
        if not tables:
            continue
        joined: Any = pd.concat(tables).groupby("rate")
        mean = whole + joined["value"].mean()
        if arm == "saliency" and (mean > OFF_SCALE * whole).all():
            ax.plot([], [], style, color=colour, label=f"{arm}: off the scale")
            continue
        low, high = whole + joined["interval_low"].min(), whole + joined["interval_high"].max()
        ax.plot(mean.index, mean, style, color=colour, label=arm)
        ax.fill_between(mean.index, low, high, color=colour, alpha=0.12, linewidth=0)
    ax.set_xlabel("share f of forgotten context tokens")
    ax.set_ylabel("bits per byte")


def cost_by_rate(runs: Sequence[FinishedRun]) -> Figure:
    """Draw time and FLOPs against the forget rate."""
    with paper_style():
        figure = Figure(figsize=(WIDTH_IN, 2.8))
        left, right = figure.subplots(1, 2, sharey=True)
        groups = seeds_apart(runs)
        colours = ordered_colours(len(groups))
        for colour, (label, group) in zip(colours, groups.items(), strict=True):
            table: Any = (
                pd.concat([run.tables["cost"] for run in group]).groupby("forget_rate").mean()
            )
            left.plot(table.index, table["wall_ratio"], "o-", color=colour, label=label)
            left.plot(table.index, table["forward_flops_ratio"], "--", color=colour)
            right.plot(table.index, table["linear_ratio"], "-", color=colour)
            right.plot(table.index, table["attention_ratio"], ":", color=colour)
        left.set_title("time measured (points), FLOPs (dashes)")
        right.set_title("FLOPs: linear part (line), attention (dots)")
        for ax in (left, right):
            ax.set_xlabel("share f of forgotten context tokens")
            ax.axhline(1, color=GREY, linewidth=0.6)
        left.set_ylabel("share of the whole window's cost")
        left.legend(fontsize=5)
    return figure


def passage(runs: Sequence[FinishedRun]) -> Figure:
    """Draw a passage of the first run of each group, each token shaded by its keep probability."""
    groups = seeds_apart(runs)
    with paper_style():
        figure = Figure(figsize=(WIDTH_IN, 0.17 * (LINES + 3) * len(groups)))
        axes = figure.subplots(len(groups), 1, squeeze=False).ravel()
        for ax, (label, group) in zip(axes, groups.items(), strict=True):
            settings: Any = group[0].settings
            ax.set_title(f"{label}, f = {settings.forget_p:g}", loc="left")
            _write(ax, group[0].tables["tokens"])
    return figure


def _write(ax: Axes, tokens: pd.DataFrame) -> None:
    ax.set_xlim(0, LINE_WIDTH)
    ax.set_ylim(-LINES, 1)
    ax.axis("off")
    column = line = 0
    for text, p, kept in zip(
        map(json.loads, tokens["token"]), tokens["keep_prob"], tokens["kept"], strict=True
    ):
        if column + len(text) > LINE_WIDTH:
            column, line = 0, line + 1
        if line >= LINES:
            break
        _shade(ax, text, column, -line, float(p), bool(kept))
        column += len(text)


def _shade(ax: Axes, text: str, x: int, y: int, p: float, kept: bool) -> None:
    ax.barh(y, len(text), left=x, height=0.95, color=SHADES(p), linewidth=0)
    ax.text(
        x, y, text, family="monospace", fontsize=8, va="center", parse_math=False,
        color="#000000" if kept else "#999999",
    )  # fmt: skip
    if not kept:
        ax.plot([x, x + len(text)], [y, y], color=ORANGE, linewidth=0.6)
