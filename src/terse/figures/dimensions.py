"""Figures of intrinsic dimensions: against layer, training step, loss, and scale."""

from collections.abc import Iterable, Sequence
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import ScalarFormatter

from terse.dimension.spearman import RankCorrelation, rank_correlations
from terse.errors import TerseError
from terse.figures.style import BLUE, GREY, WIDTH_IN, ordered_colours, paper_style

_KINDS = {"emb": "embedding", "attn": "attention", "mlp": "MLP", "block": "block", "norm": "norm"}
LOSS_COLUMNS = [
    "row", "document", "module", "layer", "estimator", "id_without_sinks", "loss_nats",
]  # fmt: skip
"""What `id_against_loss` needs of a table."""
MOST_POINTS = 5000
"""Points of a figure; more make files that no reader opens."""
_PREFERRED = "mle_inv"  # the recommended estimator, where one represents all
_SCALE = "gride_"  # these estimators make one curve, in a separate figure
_SIZED = {"twoNN_f10": "-", "gride_2": "--", "gride_16": ":"}  # in a decimation curve: line styles
_WIDE = 8  # a row of panels that spans more than this ratio gets a logarithmic scale
_Z_95 = 1.96
_MOST_TICKS, _MOST_PANELS = 7, 12  # of a deep model, evenly spaced layers are labelled or drawn
_WITHOUT = "without sinks"
_ORDER = "order of the farther neighbour, $n_2 = 2 n_1$"


def labelled(tables: Sequence[pd.DataFrame], steps: Sequence[int | None]) -> pd.DataFrame:
    """Join the summaries of several models, each named by its training step or its model.

    If a summary has estimates with and without sinks, those without are drawn: one heavy token
    would otherwise decide what a reader sees. Adds the columns `label`, `training_step` (-1 if
    unknown) and `place`: the layer, -1 for the embedding and one after the last layer for the norm,
    both drawn with the blocks.
    """
    parts = [
        table.assign(
            training_step=-1 if step is None else step,
            label=table["model"] if step is None else f"{step:,}",
        )
        for table, step in zip(tables, steps, strict=True)
    ]
    joined = pd.concat(parts, ignore_index=True)
    for measure in ("mean", "standard_error"):
        if f"{measure}_without_sinks" in joined:
            joined[measure] = joined[f"{measure}_without_sinks"]
    layers = [None if pd.isna(layer) else int(layer) for layer in joined["layer"]]
    last = max((layer for layer in layers if layer is not None), default=-1)
    outside = joined.loc[joined["layer"].isna(), "module"]
    after = [name for name in dict.fromkeys(outside) if name != "emb"]
    places = {"emb": -1} | {name: last + 1 + i for i, name in enumerate(after)}
    rows = list(zip(layers, joined["module"], strict=True))
    return joined.assign(
        place=[float(places[name] if layer is None else layer) for layer, name in rows],
        place_name=[name if layer is None else str(layer) for layer, name in rows],
        module=["block" if layer is None else name for layer, name in rows],
    )


def id_by_layer(summary: pd.DataFrame) -> Figure:
    """Draw the mean ID against the layer: a row per estimator, a column per kind of module.

    `summary` comes from `labelled`; each label is a line, in order. Bands are 95 % intervals over
    documents.
    """
    summary = _at_one_scale(summary)
    labels = list(dict.fromkeys(summary["label"]))
    with paper_style():
        figure, axes = _grid(summary, "layer")
        parts = _split(summary, "estimator", "module", "label")
        nothing = summary.head(0)
        for (estimator, kind), axis in axes.items():
            for label, colour in zip(labels, ordered_colours(len(labels)), strict=True):
                part = parts.get((estimator, kind, label), nothing)
                _band(axis, "place", part, colour, str(label))
            column = _pick(summary, module=kind)
            places = sorted(set(column["place"].astype(int)))
            places = _spread(places, _MOST_TICKS)
            axis.set_xticks(places, [_layer_name(column, place) for place in places])
            _scale_ids(axis, _pick(summary, estimator=estimator))
        _legend(figure, axes.values(), _what_labels_are(summary))
    return figure


def id_by_step(summary: pd.DataFrame) -> Figure:
    """Draw the mean ID against the training step, a line per layer; panels as in `id_by_layer`.

    `summary` comes from `labelled`; models without a step, such as those with random weights, are
    not drawn. Bands are 95 % intervals over documents.
    """
    summary = _at_one_scale(summary)
    summary = summary.loc[summary["training_step"] >= 0]
    places = sorted(set(summary["place"].astype(int)))
    with paper_style():
        figure, axes = _grid(summary, "training step")
        parts = _split(
            summary.sort_values("training_step", kind="stable"), "estimator", "module", "place"
        )
        nothing, names = summary.head(0), [_layer_name(summary, place) for place in places]
        colours = ordered_colours(len(places))
        for (estimator, kind), axis in axes.items():
            for place, name, colour in zip(places, names, colours, strict=True):
                part = parts.get((estimator, kind, place), nothing)
                _band(axis, "training_step", part, colour, name)
            _scale_ids(axis, _pick(summary, estimator=estimator))
            _scale_steps(axis, sorted(set(summary["training_step"].astype(int))))
        _legend(figure, axes.values(), "layer")
    return figure


def representative(estimators: Iterable[str]) -> str:
    """Return the estimator that is shown where one stands for all: mle_inv if it is there."""
    known = sorted(set(estimators))
    return _PREFERRED if _PREFERRED in known else known[0]


def id_against_loss(ids: pd.DataFrame, seed: int = 0) -> Figure:
    """Draw the contexts' ID against their loss, a panel per block, with the rank correlation.

    `ids` is the table of one model, with `LOSS_COLUMNS`. Of more than 5,000 points in all panels a
    random choice is drawn, the same contexts in each, and the figure says so; the correlation is
    of all contexts, and its interval resamples documents.
    Raises TerseError if the clouds are not contexts, since only contexts have a loss each.
    """
    if np.all(ids["row"].isna()):
        raise TerseError(
            "one cloud of all contexts has no loss per context: this figure needs cloud: context"
        )
    estimator = representative(map(str, ids["estimator"].unique()))
    drawn = ids.loc[ids["estimator"] == estimator]
    panels = _panels(drawn.assign(id=drawn["id_without_sinks"]))
    rows, most = np.unique(ids["row"]), MOST_POINTS // len(panels)
    chosen, note = rows, ""
    if len(rows) * len(panels) > MOST_POINTS:
        chosen = np.random.default_rng(seed).choice(rows, most, replace=False)
        note = f"; {most:,} of {len(rows):,} contexts drawn, ρ of all"
    with paper_style():
        figure, axes = _wrapped(len(panels), sharey=False)
        found = _correlations(list(panels.values()), seed)
        for axis, (name, part), words in zip(axes, panels.items(), found, strict=True):
            _scatter(axis, part, pd.Series(part["row"]).isin(chosen.tolist()), f"{name}\n{words}")
        figure.supxlabel(f"loss of the context (nats per token){note}", fontsize=8)
        figure.supylabel(f"intrinsic dimension ({estimator}, {_WITHOUT})", fontsize=8)
    return figure


def id_by_scale(summary: pd.DataFrame) -> Figure:
    """Draw GRIDE's mean ID against its scale, the farther neighbour's order; a panel per block.

    `summary` comes from `labelled`, with some of the estimators gride_2 to gride_16; each label is
    a line. Bands are 95 % intervals over documents.
    """
    curve = _curve(summary)
    labels = list(dict.fromkeys(curve["label"]))
    panels = _panels(curve)
    with paper_style():
        figure, axes = _wrapped(len(panels), sharey=True)
        for axis, (name, panel) in zip(axes, panels.items(), strict=True):
            axis.set_title(name)
            for label, colour in zip(labels, ordered_colours(len(labels)), strict=True):
                part = _pick(panel, label=label).sort_values("scale")
                _band(axis, "scale", part, colour, str(label))
            _scale_orders(axis, curve)
        figure.supxlabel(_ORDER, fontsize=8)
        figure.supylabel(f"intrinsic dimension (GRIDE, {_WITHOUT})", fontsize=8)
        _legend(figure, axes, _what_labels_are(summary))
    return figure


def id_by_size(curves: pd.DataFrame) -> Figure:
    """Draw the ID of one cloud against the number of points used; a panel per block.

    `curves` are decimation curves of several models, joined by `labelled`; colours are models,
    line styles are estimators. Bands are 95 % intervals over the disjoint parts of a cloud.
    """
    curves = curves.assign(
        mean=curves["id_without_sinks"],
        standard_error=curves["standard_error_without_sinks"],
        module=curves["module"].where(curves["layer"].notna(), curves["place_name"]),
    )
    labels, panels = list(dict.fromkeys(curves["label"])), _panels(curves)
    with paper_style():
        figure, axes = _wrapped(len(panels), sharey=True)
        for axis, (name, panel) in zip(axes, panels.items(), strict=True):
            axis.set_title(name)
            for label, colour in zip(labels, ordered_colours(len(labels)), strict=True):
                for estimator, style in _SIZED.items():
                    part = _pick(panel, label=label, estimator=estimator).sort_values("n_points")
                    words = f"{label}, {estimator}"
                    _band(axis, "n_points", part, colour, words, style)
            axis.set_xscale("log", base=2)
        figure.supxlabel("points of the cloud", fontsize=8)
        figure.supylabel(f"intrinsic dimension ({_WITHOUT})", fontsize=8)
        colours = dict(zip(map(str, labels), ordered_colours(len(labels)), strict=True))
        _two_legends(figure, _what_labels_are(curves), colours, "estimator", _SIZED)
    return figure


def id_by_window(windows: pd.DataFrame) -> Figure:
    """Draw GRIDE's curve over its scale for each window of neighbours in time that are left out.

    `windows` comes from `labelled`, with the column theiler_window; a panel per block says how many
    points its clouds have. Colours are windows, line styles are models. Bands are 95 % intervals
    over documents.
    """
    curve = _curve(windows)
    labels = list(dict.fromkeys(curve["label"]))
    drawn = curve["mean"].notna()  # not for windows as long as a context
    lengths = sorted(set(curve.loc[drawn, "theiler_window"].astype(int)))
    styles = dict(zip(labels, cycle(("-", "--", ":", "-.")), strict=False))
    panels = _panels(curve)
    with paper_style():
        figure, axes = _wrapped(len(panels), sharey=True)
        for axis, (name, panel) in zip(axes, panels.items(), strict=True):
            axis.set_title(f"{name}, n = {panel['n_eff'].mean():.0f}")
            for length, colour in zip(lengths, ordered_colours(len(lengths)), strict=True):
                for label, style in styles.items():
                    part = _pick(panel, label=label, theiler_window=length).sort_values("scale")
                    _band(axis, "scale", part, colour, f"{label}, {length}", style)
            _scale_orders(axis, curve)
        figure.supxlabel(_ORDER, fontsize=8)
        figure.supylabel(f"intrinsic dimension (GRIDE, {_WITHOUT})", fontsize=8)
        colours = dict(zip(map(str, lengths), ordered_colours(len(lengths)), strict=True))
        _two_legends(figure, "tokens in time left out", colours, _what_labels_are(windows), styles)
    return figure


def _curve(summary: pd.DataFrame) -> pd.DataFrame:
    """Return GRIDE's estimates with their scale; modules outside the blocks by their own name."""
    curve = summary.loc[summary["estimator"].str.startswith(_SCALE)]
    curve = curve.assign(scale=curve["estimator"].str.removeprefix(_SCALE).astype(int))
    return curve.assign(module=curve["module"].where(curve["layer"].notna(), curve["place_name"]))


def _scale_orders(axis: Axes, curve: pd.DataFrame) -> None:
    axis.set_xscale("log", base=2)
    scales = sorted(set(curve["scale"]))
    axis.set_xticks(scales, [str(scale) for scale in scales])


def _what_labels_are(summary: pd.DataFrame) -> str:
    return "training step" if min(summary["training_step"]) >= 0 else "model"


def _at_one_scale(summary: pd.DataFrame) -> pd.DataFrame:
    """Drop the scale curve, unless there is nothing else."""
    scaled = summary["estimator"].str.startswith(_SCALE)
    return summary if np.all(scaled) else summary.loc[~scaled]


def _panels(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Split a table by module, with readable names; only blocks and norms if there are any."""
    main = table["module"].isin(["block", "norm"])
    if np.any(main):
        table = table.loc[main]
    layers = table["layer"].fillna(-1).astype(int)
    parts = {}
    places = list(dict.fromkeys(zip(table["module"], layers, strict=True)))
    for kind, layer in _spread(places, _MOST_PANELS):
        name = "final norm" if kind == "norm" else str(_KINDS.get(kind, kind))
        part = table.loc[(table["module"] == kind) & (layers == layer)]
        parts[f"{name} {layer}" if layer >= 0 else name] = part
    return parts


def _spread(items: list[Any], most: int) -> list[Any]:
    """Return at most so many of the items, evenly spaced, the first and the last among them."""
    chosen = np.linspace(0, len(items) - 1, min(most, len(items))).round().astype(int)
    return [items[place] for place in chosen]


def _wrapped(n: int, *, sharey: bool) -> tuple[Figure, list[Axes]]:
    """Return a figure with n panels, four in a row."""
    n_columns = min(4, n)
    n_rows = -(-n // n_columns)
    figure = Figure(figsize=(WIDTH_IN, max(3.1, 1.75 * n_rows + 0.3)))
    axes = figure.subplots(n_rows, n_columns, squeeze=False, sharex=True, sharey=sharey).flatten()
    for axis in axes[n:]:
        axis.set_visible(False)
    for axis in axes[n - n_columns : n]:
        axis.tick_params(labelbottom=True)
    return figure, list(axes[:n])


def _grid(table: pd.DataFrame, x_label: str) -> tuple[Figure, dict[tuple[str, str], Axes]]:
    """Return a figure with a panel for each estimator (rows) and kind of module (columns)."""
    estimators = list(dict.fromkeys(table["estimator"]))
    present = list(dict.fromkeys(table["module"]))
    kinds = [kind for kind in _KINDS if kind in present]
    kinds += [kind for kind in present if kind not in _KINDS]
    figure = Figure(figsize=(WIDTH_IN, 1.35 * len(estimators) + 0.7))
    grid = figure.subplots(len(estimators), len(kinds), squeeze=False, sharex="col", sharey="row")
    for row, estimator in zip(grid, estimators, strict=True):
        row[0].set_ylabel(estimator.replace("participation_ratio", "participation\nratio"))
    for axis, kind in zip(grid[0], kinds, strict=True):
        axis.set_title(_KINDS.get(kind, kind))
    for axis in grid[-1]:
        axis.set_xlabel(x_label)
    figure.supylabel(f"intrinsic dimension ({_WITHOUT})", fontsize=8)
    figure.align_ylabels(grid[:, 0])
    return figure, {
        (estimator, kind): grid[i][j]
        for i, estimator in enumerate(estimators)
        for j, kind in enumerate(kinds)
    }


def _pick(table: pd.DataFrame, **wanted: object) -> pd.DataFrame:
    chosen = np.ones(len(table), dtype=bool)
    for column, value in wanted.items():
        chosen &= (table[column] == value).to_numpy(dtype=bool)
    return table.loc[chosen]


def _split(table: pd.DataFrame, *columns: str) -> dict[Any, pd.DataFrame]:
    """Return the rows of each combination of values: quicker than to pick it hundreds of times."""
    parts: dict[Any, pd.DataFrame] = dict(iter(table.groupby(list(columns), sort=False)))
    return parts


def _band(
    axis: Axes, x: str, part: pd.DataFrame, colour: Any, label: str, style: str = "-"
) -> None:
    """Draw means with their 95 % interval."""
    at, mean = part[x].to_numpy(float), part["mean"].to_numpy(float)
    half = _Z_95 * part["standard_error"].to_numpy(float)
    axis.set_autoscale_on(False)  # or each band would look for the limits of all panels again
    axis.plot(at, mean, "o", linestyle=style, color=colour, label=label)
    axis.fill_between(at, mean - half, mean + half, color=colour, alpha=0.18, linewidth=0)
    axis.autoscale()


def _layer_name(summary: pd.DataFrame, place: int) -> str:
    return str(summary.loc[summary["place"] == place, "place_name"].iloc[0])


def _scale_ids(axis: Axes, row: pd.DataFrame) -> None:
    """Use a logarithmic scale if an untrained model would flatten all other lines."""
    means = row["mean"].to_numpy(float)
    means = means[np.isfinite(means) & (means > 0)]
    if len(means) and means.max() > _WIDE * means.min():
        axis.set_yscale("log", base=2)
        axis.yaxis.set_major_formatter(ScalarFormatter())


def _scale_steps(axis: Axes, steps: list[int]) -> None:
    """Scale an axis so that step 0 and the later steps are all distinct."""
    positive = [step for step in steps if step > 0]
    axis.set_xscale("symlog", linthresh=positive[0] if positive else 1, linscale=0.6)
    axis.set_xticks(steps, [f"{step:,}" for step in steps])
    axis.minorticks_off()
    axis.tick_params(axis="x", labelrotation=45 if len(steps) > 4 else 0)


def _legend(figure: Figure, axes: Iterable[Axes], title: str) -> None:
    """Name the lines of all panels once, above them."""
    handles = {}
    for axis in axes:
        handles |= dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    names = sorted(handles, key=lambda name: (not name.isdigit(), len(name), name))
    figure.legend(
        [handles[name] for name in names],
        names,
        title=title,
        loc="outside upper center",
        ncols=min(8, len(names)),
    )


def _two_legends(
    figure: Figure, left: str, colours: dict[str, Any], right: str, styles: dict[Any, str]
) -> None:
    """Say what the colours are at the left, and what the line styles are at the right."""
    handles = [Line2D([], [], color=colour, marker="o", label=n) for n, colour in colours.items()]
    figure.legend(handles=handles, title=left, loc="outside upper left", ncols=min(5, len(handles)))
    if len(styles) > 1:
        lines = [Line2D([], [], color=GREY, ls=s, label=str(n)) for n, s in styles.items()]
        figure.legend(
            handles=lines, title=right, loc="outside upper right", ncols=min(5, len(lines))
        )


def _scatter(axis: Axes, part: pd.DataFrame, chosen: pd.Series, title: str) -> None:
    points = part.loc[chosen]
    axis.plot(points["loss_nats"], points["id"], "o", color=BLUE, markersize=2.2, alpha=0.55, mew=0)
    axis.set_title(title)


def _correlations(parts: list[pd.DataFrame], seed: int) -> list[str]:
    """Return what is said of each panel: together where all have the same contexts in one order."""
    contexts = [part[["document", "loss_nats"]].reset_index(drop=True) for part in parts]
    if not all(one.equals(contexts[0]) for one in contexts):
        return [words for part in parts for words in _correlations([part], seed)]
    found = rank_correlations(
        [np.asarray(part["id"], np.float64) for part in parts],
        np.asarray(contexts[0]["loss_nats"], np.float64),
        np.asarray(contexts[0]["document"]),
        seed,
    )
    return [_spelled(part, rho) for part, rho in zip(parts, found, strict=True)]


def _spelled(part: pd.DataFrame, found: RankCorrelation) -> str:
    if len(set(part.dropna(subset=["id", "loss_nats"])["document"])) < 3:
        return "too few documents"
    return f"ρ = {found.rho:.2f} [{found.low:.2f}, {found.high:.2f}]"
