"""Figures of blotching runs, from their tables; no torch."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import t as student

from terse.evaluation.proportions import wilson
from terse.figures.study import FinishedRun
from terse.figures.style import BLUE, GREEN, GREY, ORANGE, WIDTH_IN, paper_style

COLOURS = {"vanilla": GREY, "direct": ORANGE, "blind": GREEN, "intensity": BLUE}
KEYS = ["arm", "split", "requested_p", "temperature", "n_votes"]


def draw(runs: Sequence[FinishedRun]) -> dict[str, Figure]:
    """Return the figures of answers to problems, where there are any, and of the losses."""
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
    """Return a table of all runs with the seed of each."""
    return pd.concat(
        [run.tables[name].assign(seed=run.settings.seed) for run in runs], ignore_index=True
    )


def over_seeds(table: pd.DataFrame, keys: list[str], column: str) -> pd.DataFrame:
    """Return the mean of a column over seeds for each combination of keys, with its 95 % interval.

    Columns: the keys, mean, low, high, n_seeds. Student's t; with one seed Wilson's interval of the
    problems where the column is an accuracy, else none.
    """
    rows = []
    for values, group in table.groupby(keys, sort=True):
        found = group[column].dropna().to_numpy()
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
    return mean - half, mean + half


def by_intensity(table: pd.DataFrame, sampled: float) -> Figure:
    """Draw accuracy, greedy and sampled, and length against the intensity asked for.

    sampled: the temperature at which every intensity was sampled.
    """
    own = table[(table["split"] == "validation") & (table["n_votes"] == 1)]
    panels = [(0.0, "accuracy"), (sampled, "accuracy"), (0.0, "length_ratio")]
    with paper_style():
        figure = Figure(figsize=(WIDTH_IN, 2.4))
        for ax, (temperature, column) in zip(figure.subplots(1, 3), panels, strict=True):
            chosen = own[own["temperature"] == temperature]
            for arm in _arms(chosen):
                _against_p(ax, over_seeds(chosen[chosen["arm"] == arm], KEYS, column), arm)
            ax.set_xlabel("share of steps asked to be left out")
            ax.set_ylim(bottom=0)
            how = "greedy" if temperature == 0 else f"sampled, T = {temperature:g}"
            ax.set_title(f"{'accuracy' if column == 'accuracy' else 'length / whole chain'}, {how}")
        figure.axes[0].legend()
    return figure


def _against_p(ax: Axes, rows: pd.DataFrame, arm: str) -> None:
    xs, colour = rows["requested_p"].to_numpy(), COLOURS[arm]
    if arm in ("vanilla", "direct") and len(rows):
        first = rows.iloc[0]
        ax.axhline(first["mean"], color=colour, linestyle="--", label=arm)
        ax.axhspan(first["low"], first["high"], color=colour, alpha=0.15, linewidth=0)
        return
    ax.errorbar(
        xs, rows["mean"], yerr=_errors(rows), fmt="o-" if arm == "intensity" else "D",
        color=colour, elinewidth=0.8, label=arm,
    )  # fmt: skip


def by_temperature(table: pd.DataFrame) -> Figure:
    """Draw accuracy against temperature, a panel for the least, middle and largest intensity."""
    own = table[table["split"] == "validation"]
    asked = sorted(own.loc[(own["arm"] == "intensity") & (own["n_votes"] > 1), "requested_p"])
    panels = list(dict.fromkeys(asked)) or [None]
    with paper_style():
        figure = Figure(figsize=(WIDTH_IN, 2.4))
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for ax, p in zip(axes, panels, strict=True):
            for arm in _arms(own):
                chosen = own[own["arm"] == arm]
                if arm == "intensity":
                    chosen = chosen[chosen["requested_p"] == p]
                _against_temperature(ax, chosen, arm)
            ax.set_xlabel("temperature")
            ax.set_ylim(0, 1.02)
            if p is not None:
                ax.set_title(f"intensity asked for {p:.2g}")
        axes[0].set_ylabel("accuracy")
        axes[0].legend()
    return figure


def _against_temperature(ax: Axes, chosen: pd.DataFrame, arm: str) -> None:
    rows = over_seeds(chosen, KEYS, "accuracy")
    single, votes = rows[rows["n_votes"] == 1], rows[rows["n_votes"] > 1]
    ax.errorbar(
        single["temperature"], single["mean"], yerr=_errors(single), fmt="o-",
        color=COLOURS[arm], elinewidth=0.8, label=arm,
    )  # fmt: skip
    ax.plot(votes["temperature"], votes["mean"], "s", color=COLOURS[arm], fillstyle="none")


def by_length(table: pd.DataFrame) -> Figure:
    """Draw the greedy accuracy against the steps of the whole chain."""
    hits = table.assign(hits=(table["accuracy"] * table["n_problems"]).round())
    keys = ["arm", "requested_p", "steps"]
    sums = hits.groupby(keys, as_index=False)[["hits", "n_problems"]].sum()
    with paper_style():
        figure = Figure(figsize=(WIDTH_IN, 2.4))
        ax = figure.subplots()
        for (arm, p), rows in sums.groupby(["arm", "requested_p"]):
            shares = rows["hits"] / rows["n_problems"]
            pairs = zip(rows["hits"], rows["n_problems"], strict=True)
            edges = np.array([wilson(int(h), int(n)) for h, n in pairs]).T
            style = "o-" if p < 0.34 else "o--" if p < 0.67 else "o:"
            ax.errorbar(
                rows["steps"], shares, yerr=np.abs(edges - shares.to_numpy()), fmt=style,
                color=COLOURS[str(arm)], elinewidth=0.6, label=f"{arm} {p:.2g}",
            )  # fmt: skip
        ax.set_xlabel("steps of the whole chain")
        ax.set_ylabel("accuracy, greedy")
        ax.set_ylim(0, 1.02)
        ax.legend(ncols=2)
    return figure


def held_out(table: pd.DataFrame) -> Figure:
    """Draw the greedy accuracy in and out of distribution against the intensity asked for."""
    greedy = table[(table["temperature"] == 0) & (table["n_votes"] == 1)]
    titles = {"validation": "held out", "ood": "a number above the training maximum"}
    with paper_style():
        figure = Figure(figsize=(WIDTH_IN, 2.4))
        for ax, (split, title) in zip(
            figure.subplots(1, 2, sharey=True), titles.items(), strict=True
        ):
            chosen = greedy[greedy["split"] == split]
            for arm in _arms(chosen):
                _against_p(ax, over_seeds(chosen[chosen["arm"] == arm], KEYS, "accuracy"), arm)
            ax.set_xlabel("share of steps asked to be left out")
            ax.set_title(title)
            ax.set_ylim(0, 1.02)
        figure.axes[0].set_ylabel("accuracy, greedy")
        figure.axes[0].legend()
    return figure


def losses(table: pd.DataFrame) -> Figure:
    """Draw the losses against the share of steps left out."""
    columns = {
        "loss_nats": "nats per kept token",
        "loss_nats_per_original_token": "nats per token of the whole chain",
        "answer_loss_nats": "nats per token of the answer",
    }
    with paper_style():
        figure = Figure(figsize=(WIDTH_IN, 2.4))
        for ax, (column, label) in zip(figure.subplots(1, 3), columns.items(), strict=True):
            for arm in _arms(table):
                rows = over_seeds(table[table["arm"] == arm], ["arm", "p"], column)
                ax.errorbar(
                    rows["p"], rows["mean"], yerr=_errors(rows), fmt="o-", color=COLOURS[arm],
                    elinewidth=0.8, label=arm,
                )  # fmt: skip
            ax.set_xlabel("share of steps left out")
            ax.set_ylabel(label)
            ax.set_ylim(bottom=0)
        figure.axes[0].legend()
    return figure


def _arms(table: pd.DataFrame) -> list[str]:
    return [arm for arm in COLOURS if arm in set(table["arm"])]


def _errors(rows: pd.DataFrame) -> np.ndarray:
    """Return the distances (2, rows) from the means to the ends of their intervals."""
    return np.abs([rows["mean"] - rows["low"], rows["high"] - rows["mean"]])
