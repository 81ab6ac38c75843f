"""Figures of blotching runs, drawn from their tables without torch."""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy.stats import t as student

from terse.evaluation.proportions import wilson
from terse.figures.study import FinishedRun
from terse.figures.style import BLUE, GREEN, GREY, ORANGE, WIDTH_IN, paper_style

COLOURS = {"vanilla": GREY, "direct": ORANGE, "blind": GREEN, "intensity": BLUE}
KEYS = ["series", "arm", "split", "requested_p", "temperature", "n_votes"]


def draw(runs: Sequence[FinishedRun]) -> dict[str, Figure]:
    """Return the figures of the losses and, if there are any, of answers to problems."""
    figures = {"losses": losses(joined(runs, "losses"))}
    solving = [run for run in runs if "answers" in run.tables]
    if solving:
        table = joined(solving, "answers")
        figures |= {
            "intensity": by_intensity(table, getattr(solving[0].settings, "val_temp", 0.0)),
            "temperature": by_temperature(table),
            "length": by_length(joined(solving, "by_length")),
            "held-out": held_out(table),
        }
    return figures


def joined(runs: Sequence[FinishedRun], name: str) -> pd.DataFrame:
    """Return a table of all runs with their series; runs of a series differ only in the seed."""
    names = series_names(runs)
    tables = [run.tables[name].assign(series=names[run.name]) for run in runs]
    return pd.concat(tables, ignore_index=True)


def series_names(runs: Sequence[FinishedRun]) -> dict[str, str]:
    """Return each run's name in a legend: its arm, and settings that are unusual for the arm."""
    settings = {run.name: _without_seed(run.settings.model_dump(mode="json")) for run in runs}
    names: dict[str, str] = {}
    for run, own in settings.items():
        peers = [other for other in settings.values() if other["arm"] == own["arm"]]
        unusual = [f"{k} {own[k]}" for k in own if not _is_usual(own[k], [p[k] for p in peers])]
        names[run] = ", ".join([own["arm"], *unusual])
    return names


def _is_usual(value: Any, values: Sequence[Any]) -> bool:
    """Return whether a value is more common among values than any other."""
    return all(values.count(value) > values.count(other) for other in values if other != value)


def _without_seed(settings: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key != "seed"}


def over_seeds(table: pd.DataFrame, keys: list[str], column: str) -> pd.DataFrame:
    """Return the mean of a column over seeds for each combination of keys, with a 95 % interval.

    Columns: the keys, mean, low, high, n_seeds. Student's t; with one seed, Wilson's interval over
    the problems if the column is an accuracy, else none.
    """
    rows = []
    groups: Any = table.groupby(keys, sort=True)
    for values, group in groups:
        found = np.asarray(group[column].dropna(), float)
        if not len(found):
            continue
        low, high = _interval(found, group if column == "accuracy" else None)
        rows.append(
            dict(zip(keys, values, strict=True))
            | {"mean": found.mean(), "low": low, "high": high, "n_seeds": len(found)}
        )
    return pd.DataFrame(rows, columns=[*keys, "mean", "low", "high", "n_seeds"])


def _interval(found: np.ndarray, group: pd.DataFrame | None) -> tuple[float, float]:
    mean, n = found.mean(), len(found)
    if n == 1:
        if group is None:
            return mean, mean
        problems = int(group["n_problems"].iloc[0])
        return wilson(round(mean * problems), problems)
    half = student.ppf(0.975, n - 1) * found.std(ddof=1) / n**0.5
    low, high = mean - half, mean + half
    return (low, high) if group is None else (max(low, 0.0), min(high, 1.0))


def by_intensity(table: pd.DataFrame, sampled: float) -> Figure:
    """Draw accuracy, greedy and sampled, and length against the requested intensity.

    sampled: the temperature at which every intensity was sampled.
    """
    own = _only(table, split="validation", n_votes=1)
    panels = [(0.0, "accuracy"), (sampled, "accuracy"), (0.0, "length_ratio")]
    with paper_style():
        figure = Figure(figsize=(WIDTH_IN, 2.7))
        for ax, (temperature, column) in zip(figure.subplots(1, 3), panels, strict=True):
            chosen = _only(own, temperature=temperature)
            for series in _series(chosen):
                _against_p(ax, _only(chosen, series=series), column)
            ax.set_xlabel("requested share of steps left out")
            ax.set_ylim(0, 1.05 if column == "accuracy" else None)
            how = "greedy" if temperature == 0 else f"sampled, T = {temperature:g}"
            ax.set_title(f"{'accuracy' if column == 'accuracy' else 'length / whole chain'}, {how}")
        _legend_below(figure)
    return figure


def _against_p(ax: Axes, runs: pd.DataFrame, column: str) -> None:
    """Draw one series, a dot for each seed; if it takes no requests, its mean as a line."""
    rows = over_seeds(runs, KEYS, column)
    if not len(rows):
        return
    arm, label = str(rows["arm"].iloc[0]), str(rows["series"].iloc[0])
    colour, alpha = COLOURS[arm], _alpha(label)
    ax.plot(runs["requested_p"], runs[column], ".", color=colour, alpha=0.4 * alpha, zorder=1)
    if arm != "intensity":
        ax.axhline(rows["mean"].iloc[0], linestyle="--", color=colour, alpha=0.6 * alpha)
    ax.errorbar(
        rows["requested_p"], rows["mean"], yerr=_errors(rows), elinewidth=0.8, color=colour,
        fmt="o-" if arm == "intensity" else "D", alpha=alpha, label=label,
    )  # fmt: skip


def _legend_below(figure: Figure) -> None:
    handles, labels = figure.axes[0].get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    figure.legend(
        unique.values(), unique.keys(), loc="outside lower center", ncols=min(len(unique), 4)
    )


def _alpha(series: str) -> float:
    """Return the opacity of a series: variants of an arm are fainter than the arm itself."""
    return 0.45 if "," in series else 1.0


def by_temperature(table: pd.DataFrame) -> Figure:
    """Draw accuracy against temperature, a panel for the smallest, middle and largest intensity."""
    own = _only(table, split="validation")
    asked = own[own["arm"] == "intensity"]
    voted = asked[asked["n_votes"] > 1]
    shares = (voted if len(voted) else asked)["requested_p"]
    panels = sorted(set(shares)) or [None]
    with paper_style():
        figure = Figure(figsize=(WIDTH_IN, 2.7))
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for ax, p in zip(axes, panels, strict=True):
            for series in _series(own):
                chosen = _only(own, series=series)
                if series.startswith("intensity"):
                    chosen = _only(chosen, requested_p=p)
                _against_temperature(ax, over_seeds(chosen, KEYS, "accuracy"))
            ax.set_xlabel("temperature")
            ax.set_ylim(0, 1.02)
            if p is not None:
                ax.set_title(f"requested intensity {p:.2g}")
        axes[0].set_ylabel("accuracy")
        _legend_below(figure)
    return figure


def _against_temperature(ax: Axes, rows: pd.DataFrame) -> None:
    if not len(rows):
        return
    colour, label = COLOURS[str(rows["arm"].iloc[0])], str(rows["series"].iloc[0])
    single, votes = _only(rows, n_votes=1), rows.query("n_votes > 1")
    ax.errorbar(
        single["temperature"], single["mean"], yerr=_errors(single), fmt="o-",
        color=colour, elinewidth=0.8, alpha=_alpha(label), label=label,
    )  # fmt: skip
    ax.plot(
        votes["temperature"], votes["mean"], "s", color=colour, fillstyle="none",
        alpha=_alpha(label),
    )  # fmt: skip


def by_length(table: pd.DataFrame) -> Figure:
    """Draw the greedy accuracy against the steps of the whole chain."""
    hits = table.assign(hits=(table["accuracy"] * table["n_problems"]).round())
    keys = ["series", "arm", "requested_p", "steps"]
    sums: Any = hits.groupby(keys, as_index=False)[["hits", "n_problems"]].sum()
    with paper_style():
        figure = Figure(figsize=(WIDTH_IN, 2.7))
        ax = figure.subplots()
        for (series, arm, p), rows in sums.groupby(["series", "arm", "requested_p"]):
            shares = rows["hits"] / rows["n_problems"]
            pairs = zip(rows["hits"], rows["n_problems"], strict=True)
            edges = np.array([wilson(int(h), int(n)) for h, n in pairs]).T
            style = "o-" if p < 0.34 else "o--" if p < 0.67 else "o:"
            ax.errorbar(
                rows["steps"], shares, yerr=np.abs(edges - shares.to_numpy()), fmt=style,
                color=COLOURS[str(arm)], elinewidth=0.6, alpha=_alpha(str(series)),
                label=f"{series}, {p:.2g} left out",
            )  # fmt: skip
        ax.set_xlabel("steps of the whole chain")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set_ylabel("accuracy, greedy")
        ax.set_ylim(0, 1.02)
        _legend_below(figure)
    return figure


def held_out(table: pd.DataFrame) -> Figure:
    """Draw the greedy accuracy in and out of distribution against the requested intensity."""
    greedy = _only(table, temperature=0.0, n_votes=1)
    titles = {"validation": "held out", "ood": "a number above the training maximum"}
    with paper_style():
        figure = Figure(figsize=(WIDTH_IN, 2.7))
        for ax, (split, title) in zip(
            figure.subplots(1, 2, sharey=True), titles.items(), strict=True
        ):
            chosen = _only(greedy, split=split)
            for series in _series(chosen):
                _against_p(ax, _only(chosen, series=series), "accuracy")
            ax.set_xlabel("requested share of steps left out")
            ax.set_title(title)
            ax.set_ylim(0, 1.02)
        figure.axes[0].set_ylabel("accuracy, greedy")
        _legend_below(figure)
    return figure


def losses(table: pd.DataFrame) -> Figure:
    """Draw the losses against the share of steps left out."""
    columns = {
        "loss_nats": "nats per kept token",
        "loss_nats_per_original_token": "nats per token of the whole chain",
        "answer_loss_nats": "nats per token of the answer",
    }
    with paper_style():
        figure = Figure(figsize=(WIDTH_IN, 2.7))
        for ax, (column, label) in zip(figure.subplots(1, 3), columns.items(), strict=True):
            for series in _series(table):
                rows = over_seeds(_only(table, series=series), ["series", "arm", "p"], column)
                ax.errorbar(
                    rows["p"], rows["mean"], yerr=_errors(rows), fmt="o-", elinewidth=0.8,
                    color=COLOURS[str(rows["arm"].iloc[0])], alpha=_alpha(series), label=series,
                )  # fmt: skip
            ax.set_xlabel("share of steps left out")
            ax.set_ylabel(label)
        _legend_below(figure)
    return figure


def _only(table: pd.DataFrame, **values: Any) -> pd.DataFrame:
    """Return the rows that have these values in their columns."""
    for column, value in values.items():
        table = cast(pd.DataFrame, table[table[column] == value])
    return table


def _series(table: pd.DataFrame) -> list[str]:
    """Return the series in the order of their arms."""
    found = table[["arm", "series"]].drop_duplicates()
    order = {arm: place for place, arm in enumerate(COLOURS)}
    return sorted(found["series"], key=lambda name: (order[name.partition(",")[0]], name))


def _errors(rows: pd.DataFrame) -> np.ndarray:
    """Return the distances (2, rows) from the means to the ends of their intervals."""
    return np.abs([rows["mean"] - rows["low"], rows["high"] - rows["mean"]])
