"""Figures of intrinsic dimensions: against layer, training step, and loss."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from terse.dimension.statistics import rank_correlation
from terse.figures.style import BLUE, WIDTH_IN, ordered_colours, paper_style

_KINDS = {"emb": "embedding", "attn": "attention", "mlp": "MLP", "block": "block", "norm": "norm"}
_PREFERRED = "mle_inv"  # the recommended estimator, where one has to stand for all
_Z_95 = 1.96


def id_by_layer(summary: pd.DataFrame) -> Figure:
    """Draw the mean ID against the layer: a row per estimator, a column per kind of module.

    `summary` is that of `terse.dimension.statistics.summarise` with a column `label`, the order
    of whose values is that of the lines. Bands are 95 % intervals over documents.
    """
    inside = summary[summary["layer"].notna()]
    labels = list(dict.fromkeys(summary["label"]))
    with paper_style():
        figure, axes = _grid(inside)
        for (estimator, kind), axis in axes.items():
            for label, colour in zip(labels, ordered_colours(len(labels)), strict=True):
                part = _pick(inside, estimator=estimator, module=kind, label=label)
                _band(axis, part["layer"], part, colour, str(label))
            _name_layers(axis, inside, last=estimator == list(axes)[-1][0])
        _legend(figure, axes, "training step")
    return figure


def id_by_step(summary: pd.DataFrame) -> Figure:
    """Draw the mean ID against the training step, a line per layer; columns and rows as above.

    `summary` has a column `training_step`. Bands are 95 % intervals over documents.
    """
    inside = summary[summary["layer"].notna()]
    layers = sorted(inside["layer"].unique())
    with paper_style():
        figure, axes = _grid(inside)
        for (estimator, kind), axis in axes.items():
            for layer, colour in zip(layers, ordered_colours(len(layers)), strict=True):
                part = _pick(inside, estimator=estimator, module=kind, layer=layer)
                part = part.sort_values("training_step")
                _band(axis, part["training_step"], part, colour, str(layer))
            _name_steps(axis, inside, last=estimator == list(axes)[-1][0])
        _legend(figure, axes, "layer")
    return figure


def id_against_loss(ids: pd.DataFrame, seed: int = 0) -> Figure:
    """Draw each context's ID against its loss, a panel per block, with the rank correlation.

    `ids` is the table of one model. The interval resamples documents.
    """
    known = set(ids["estimator"])
    estimator = _PREFERRED if _PREFERRED in known else sorted(known)[0]
    chosen = ids[(ids["estimator"] == estimator) & ids["module"].isin(["block", "norm"])]
    panels = list(chosen.groupby(["module", "layer"], dropna=False, sort=False))
    n_columns = min(4, len(panels))
    n_rows = -(-len(panels) // n_columns)
    with paper_style():
        figure = Figure(figsize=(WIDTH_IN, 1.75 * n_rows + 0.3))
        axes = figure.subplots(n_rows, n_columns, squeeze=False, sharex=True)
        for axis, ((kind, layer), part) in zip(axes.flat, panels, strict=False):
            _scatter(axis, part, str(kind), layer, seed)
        for axis in list(axes.flat)[len(panels) :]:
            axis.set_visible(False)
        figure.supxlabel("loss of the context (nats per token)", fontsize=8)
        figure.supylabel(f"intrinsic dimension ({estimator})", fontsize=8)
    return figure


def _grid(table: pd.DataFrame) -> tuple[Figure, dict[tuple[str, str], Axes]]:
    """Return a figure with a panel for each estimator (rows) and kind of module (columns)."""
    estimators = list(dict.fromkeys(table["estimator"]))
    kinds = [k for k in [*_KINDS, *table["module"].unique()] if k in set(table["module"])]
    kinds = list(dict.fromkeys(kinds))
    figure = Figure(figsize=(WIDTH_IN, 1.35 * len(estimators) + 0.7))
    axes = figure.subplots(len(estimators), len(kinds), squeeze=False, sharex=True, sharey="row")
    for row, estimator in zip(axes, estimators, strict=True):
        row[0].set_ylabel(f"ID ({estimator})")
    for axis, kind in zip(axes[0], kinds, strict=True):
        axis.set_title(_KINDS.get(kind, kind))
    return figure, {
        (e, k): axes[i][j] for i, e in enumerate(estimators) for j, k in enumerate(kinds)
    }


def _pick(table: pd.DataFrame, **wanted: object) -> pd.DataFrame:
    for column, value in wanted.items():
        table = table[table[column] == value]
    return table


def _band(axis: Axes, x: pd.Series, part: pd.DataFrame, colour: object, label: str) -> None:
    """Draw means with their 95 % interval."""
    at, mean = x.to_numpy(float), part["mean"].to_numpy(float)
    half = _Z_95 * part["standard_error"].to_numpy(float)
    axis.plot(at, mean, "o-", color=colour, label=label)
    axis.fill_between(at, mean - half, mean + half, color=colour, alpha=0.18, linewidth=0)


def _name_layers(axis: Axes, table: pd.DataFrame, *, last: bool) -> None:
    layers = sorted(int(layer) for layer in table["layer"].unique())
    axis.set_xticks(layers[:: max(1, len(layers) // 8)])
    if last:
        axis.set_xlabel("layer")


def _name_steps(axis: Axes, table: pd.DataFrame, *, last: bool) -> None:
    """Scale an axis so that step 0 and the steps after it are all apart."""
    steps = sorted(int(step) for step in table["training_step"].unique())
    positive = [step for step in steps if step > 0]
    axis.set_xscale("symlog", linthresh=positive[0] if positive else 1, linscale=0.6)
    axis.set_xticks(steps, [f"{step:,}" for step in steps])
    axis.minorticks_off()
    axis.tick_params(axis="x", labelrotation=45 if len(steps) > 4 else 0)
    if last:
        axis.set_xlabel("training step")


def _legend(figure: Figure, axes: dict[tuple[str, str], Axes], title: str) -> None:
    handles, labels = next(iter(axes.values())).get_legend_handles_labels()
    figure.legend(
        handles, labels, title=title, loc="outside upper center", ncols=min(8, len(labels))
    )


def _scatter(axis: Axes, part: pd.DataFrame, kind: str, layer: object, seed: int) -> None:
    where = f"{_KINDS.get(kind, kind)}" + ("" if pd.isna(layer) else f" {layer}")  # type: ignore[arg-type]
    axis.plot(part["loss_nats"], part["id"], "o", color=BLUE, markersize=2, alpha=0.55, mew=0)
    defined = part[part["id"].notna() & part["loss_nats"].notna()]
    axis.set_title(f"{where}: {_correlation(defined, seed)}")


def _correlation(defined: pd.DataFrame, seed: int) -> str:
    if defined["document"].nunique() < 3:
        return "too few documents"
    found = rank_correlation(
        defined["id"].to_numpy(np.float64),
        defined["loss_nats"].to_numpy(np.float64),
        defined["document"].to_numpy(),
        seed,
    )
    return f"ρ = {found.rho:.2f} [{found.low:.2f}, {found.high:.2f}]"


def labelled(tables: Sequence[pd.DataFrame], steps: Sequence[int | None]) -> pd.DataFrame:
    """Join the summaries of several models, each named by its training step or its model."""
    parts = [
        table.assign(
            training_step=-1 if step is None else step,
            label=table["model"] if step is None else f"{step:,}",
        )
        for table, step in zip(tables, steps, strict=True)
    ]
    return pd.concat(parts, ignore_index=True)
