"""The figures of dimensions show the numbers of their tables, named and made again alike."""

from collections.abc import Callable
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from terse.dimension import decimation_curve
from terse.dimension.spearman import rank_correlation
from terse.dimension.statistics import summarise
from terse.figures import dimensions
from terse.figures.dimensions import (
    id_against_loss,
    id_by_layer,
    id_by_scale,
    id_by_size,
    id_by_step,
    id_by_window,
    labelled,
)
from terse.figures.style import paper_style, save

Table = Callable[..., pd.DataFrame]
Texts = Callable[[Figure], list[str]]


def joined(tables: list[pd.DataFrame], steps: list[int | None]) -> pd.DataFrame:
    """Return what is drawn of the summaries, which come through files."""
    files = [StringIO(summarise(table).to_csv(index=False)) for table in tables]
    return labelled([pd.read_csv(file) for file in files], steps)


def panel(figure: Figure, title: str, row: int = 0) -> Axes:
    """Return the panel below a title."""
    tops = [axis for axis in figure.axes if axis.get_title() == title]
    columns = [axis for axis in figure.axes if axis.get_position().x0 == tops[0].get_position().x0]
    return columns[row]


def drawn(axis: Axes, label: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the points (x, y) of a line."""
    (line,) = [line for line in axis.lines if line.get_label() == label]
    return np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)


@pytest.fixture
def checkpoints(ids_table: Table) -> pd.DataFrame:
    """Three steps of one run, three blocks and the final norm, two estimators."""
    steps: list[int | None] = [0, 100, 1000]
    return joined([ids_table(f"base-step{step}", seed=step or 1) for step in steps], steps)


def test_by_layer_draws_the_means_and_names_everything(
    checkpoints: pd.DataFrame, texts: Texts
) -> None:
    figure = id_by_layer(checkpoints)
    x, y = drawn(panel(figure, "block", row=1), "1,000")
    block = checkpoints.query("estimator == 'mle_inv' and label == '1,000' and module == 'block'")
    assert x.tolist() == [0, 1, 2, 3]  # the final norm comes after the last block
    np.testing.assert_allclose(y, block["mean"])
    assert drawn(panel(figure, "MLP"), "0")[0].tolist() == [0, 1, 2]
    band = panel(figure, "block", row=1).collections[2].get_paths()[0].vertices
    half = 1.96 * block["standard_error"].max()
    assert np.ptp(np.asarray(band)[:, 1]) > half
    words = texts(figure)
    named = "intrinsic dimension (without sinks)"
    for word in ("attention", "MLP", "block", "mle", "mle_inv", "layer", named):
        assert word in words, word
    first = words.index("training step")
    assert words[first + 1 : first + 4] == ["0", "100", "1,000"]
    assert "norm" in words
    assert words.count("layer") == 3


def test_by_step_draws_a_line_for_each_layer(checkpoints: pd.DataFrame, texts: Texts) -> None:
    figure = id_by_step(checkpoints)
    x, y = drawn(panel(figure, "block"), "norm")
    expected = checkpoints.query("estimator == 'mle' and module == 'block' and place == 3")
    assert x.tolist() == [0, 100, 1000]
    np.testing.assert_allclose(y, expected["mean"])
    words = texts(figure)
    first = words.index("layer")
    assert words[first + 1 : first + 5] == ["0", "1", "2", "norm"]
    assert words.count("training step") == 3
    assert "1,000" in words


SCALES = ("gride_2", "gride_4", "gride_8", "gride_16")


def test_by_scale_draws_gride_against_the_neighbours_order(ids_table: Table, texts: Texts) -> None:
    tables = [ids_table(f"m{seed}", estimators=("mle", *SCALES), seed=seed) for seed in (1, 2)]
    table = joined(tables, [0, 10])
    figure = id_by_scale(table)
    axis = next(axis for axis in figure.axes if axis.get_title() == "block 1")
    x, y = drawn(axis, "10")
    assert x.tolist() == [2, 4, 8, 16]
    block = table.query("label == '10' and module == 'block' and layer == 1")
    expected = [block.query(f"estimator == '{name}'")["mean"].item() for name in SCALES]
    np.testing.assert_allclose(y, expected)
    titles = [axis.get_title() for axis in figure.axes]
    assert titles == ["block 0", "block 1", "block 2", "final norm"]
    words = texts(figure)
    assert "training step" in words
    assert "mle" not in words


def test_the_scale_curve_stays_out_of_the_other_figures(ids_table: Table, texts: Texts) -> None:
    both = joined([ids_table("base", estimators=("mle", *SCALES))], [0])
    for draw in (id_by_layer, id_by_step):
        words = texts(draw(both))
        assert "mle" in words
        assert "gride_2" not in words
    alone = joined([ids_table("base", estimators=SCALES)], [0])
    assert "gride_2" in texts(id_by_layer(alone))


def test_steps_are_drawn_in_their_order_however_they_come(ids_table: Table) -> None:
    table = joined([ids_table("late", seed=1), ids_table("early", seed=2)], [500, 0])
    x, _ = drawn(panel(id_by_step(table), "block"), "0")
    assert x.tolist() == [0, 500]


def test_models_without_a_step_are_named_by_their_names(ids_table: Table, texts: Texts) -> None:
    table = joined([ids_table("llama"), ids_table("pythia", seed=2)], [None, None])
    words = texts(id_by_layer(table))
    first = words.index("model")
    assert words[first + 1 : first + 3] == ["llama", "pythia"]
    assert "training step" not in words


def test_a_trained_run_beside_a_model_without_a_step(ids_table: Table, texts: Texts) -> None:
    table = joined([ids_table("llama"), ids_table("base")], [None, 300])
    words = texts(id_by_layer(table))
    first = words.index("model")
    assert set(words[first + 1 : first + 3]) == {"llama", "300"}


def test_one_model_alone(ids_table: Table, texts: Texts) -> None:
    table = joined([ids_table("base", n_layers=1, estimators=("mle",))], [12])
    for draw in (id_by_layer, id_by_step):
        words = texts(draw(table))
        assert "mle" in words
        assert "12" in words


def test_models_of_different_depth_share_the_place_of_the_norm(ids_table: Table) -> None:
    table = joined([ids_table("small", n_layers=2), ids_table("large", n_layers=4)], [None, None])
    axis = panel(id_by_layer(table), "block", row=1)
    assert drawn(axis, "small")[0].tolist() == [0, 1, 4]
    assert drawn(axis, "large")[0].tolist() == [0, 1, 2, 3, 4]
    names = [tick.get_text() for tick in axis.get_xticklabels()]
    assert names == ["0", "1", "2", "3", "norm"]


def test_a_deep_model_has_labels_and_panels_that_fit(ids_table: Table) -> None:
    deep = ids_table("deep", n_layers=30, n_documents=3)
    axis = panel(id_by_layer(joined([deep], [None])), "block", row=1)
    assert drawn(axis, "deep")[0].tolist() == list(range(31))
    names = [tick.get_text() for tick in axis.get_xticklabels()]
    assert names == ["0", "5", "10", "15", "20", "25", "norm"]
    shown = [a.get_title() for a in id_against_loss(deep).axes if a.get_visible()]
    assert len(shown) == 12
    assert shown[0].startswith("block 0\n")
    assert shown[-1].startswith("final norm")


def test_undefined_dimensions_leave_a_gap(ids_table: Table, texts: Texts) -> None:
    table = ids_table("base")
    undefined = (table["layer"] == 1) & (table["estimator"] == "mle")
    table.loc[undefined, ["id", "id_without_sinks"]] = np.nan
    figure = id_by_layer(joined([table], [0]))
    _, y = drawn(panel(figure, "block"), "0")
    assert np.isnan(y).tolist() == [False, True, False, False]
    assert not np.isnan(drawn(panel(figure, "block", row=1), "0")[1]).any()
    assert "mle" in texts(figure)
    texts(id_by_step(joined([table, table], [0, 1])))
    texts(id_against_loss(table.assign(id_without_sinks=np.nan)))


def test_what_is_without_sinks_is_drawn_and_said(ids_table: Table, texts: Texts) -> None:
    table = ids_table("base")
    table["id"] += 100  # as a sink lifts them
    figure = id_by_layer(joined([table], [0]))
    _, y = drawn(panel(figure, "block"), "0")
    assert y.max() < 30
    assert any("without sinks" in word for word in texts(figure))
    part = table.query("estimator == 'mle_inv' and module == 'block' and layer == 0")
    against = id_against_loss(table)
    heights = np.asarray(against.axes[0].lines[0].get_ydata(), float)
    np.testing.assert_allclose(heights, part["id_without_sinks"])
    assert any("without sinks" in word for word in texts(against))


def test_by_size_draws_what_is_without_sinks(texts: Texts) -> None:
    cloud = np.random.default_rng(0).standard_normal((256, 4))
    cloud[17] = 5000
    curve = decimation_curve(cloud, seed=0).assign(model="base", module="block", layer=0)
    curve = curve.astype({"layer": "Int64"})
    curve["id"] = 1000.0
    figure = id_by_size(labelled([curve], [None]))
    part = curve.query("estimator == 'gride_2'").sort_values("n_points")
    drawn_lines = [np.asarray(line.get_ydata(), float) for line in figure.axes[0].lines]
    assert any(np.array_equal(y, part["id_without_sinks"]) for y in drawn_lines)
    assert max(y.max() for y in drawn_lines) < 10
    assert "intrinsic dimension (without sinks)" in texts(figure)


def test_modules_outside_the_blocks_are_all_drawn(ids_table: Table, texts: Texts) -> None:
    """Nothing is dropped silently."""
    table = joined([ids_table("base", outside=("emb", "norm"))], [0])
    for draw in (id_by_layer, id_by_step):
        words = texts(draw(table))
        assert "norm" in words
        assert {"emb", "embedding"} & set(words)


def test_a_model_measured_at_its_norm_alone_is_drawn(ids_table: Table, texts: Texts) -> None:
    table = ids_table("base", kinds=(), outside=("norm",))
    for draw in (id_by_layer, id_by_step):
        assert "norm" in texts(draw(joined([table], [0])))
    assert any("final norm" in word for word in texts(id_against_loss(table)))


def test_against_loss_shows_each_context_and_its_correlation(
    ids_table: Table, texts: Texts
) -> None:
    table = ids_table("base", n_documents=8, kinds=("mlp", "block"))
    figure = id_against_loss(table, seed=3)
    axes = [axis for axis in figure.axes if axis.get_visible()]
    assert [axis.get_title().partition("\n")[0] for axis in axes] == [
        "block 0", "block 1", "block 2", "final norm",
    ]  # fmt: skip
    part = table.query("estimator == 'mle_inv' and module == 'block' and layer == 1")
    np.testing.assert_allclose(np.asarray(axes[1].lines[0].get_xdata(), float), part["loss_nats"])
    np.testing.assert_allclose(np.asarray(axes[1].lines[0].get_ydata(), float), part["id"])
    ids, loss = part["id"].to_numpy(), part["loss_nats"].to_numpy()
    found = rank_correlation(ids, loss, part["document"].to_numpy(), 3)
    title = f"ρ = {found.rho:.2f} [{found.low:.2f}, {found.high:.2f}]"
    assert axes[1].get_title() == f"block 1\n{title}"
    words = texts(figure)
    assert "loss of the context (nats per token)" in words
    assert "intrinsic dimension (mle_inv, without sinks)" in words
    assert title in words


def test_against_loss_takes_the_estimator_there_is(ids_table: Table, texts: Texts) -> None:
    words = texts(
        id_against_loss(ids_table("base", n_layers=1, estimators=("twoNN_f10", "mind_ml")))
    )
    assert "intrinsic dimension (mind_ml, without sinks)" in words


def test_against_loss_with_too_few_documents_says_so(ids_table: Table, texts: Texts) -> None:
    assert "too few documents" in texts(id_against_loss(ids_table("base", n_documents=2)))


def test_against_loss_without_blocks_shows_what_there_is(ids_table: Table, texts: Texts) -> None:
    words = texts(id_against_loss(ids_table("base", n_layers=1, kinds=("mlp",), outside=())))
    assert any("mlp" in word.lower() for word in words)


@pytest.mark.parametrize("draw", [id_by_layer, id_by_step, id_against_loss])
def test_drawn_twice_the_files_are_the_same(
    draw: Callable[[pd.DataFrame], Figure], ids_table: Table, tmp_path: Path
) -> None:
    table = ids_table("base", n_layers=1, kinds=("block",))
    for name in ("first", "second"):
        figure = draw(table if draw is id_against_loss else joined([table], [0]))
        save(figure, [tmp_path / f"{name}.{suffix}" for suffix in ("svg", "pdf")])
    for suffix in ("svg", "pdf"):
        first, second = (tmp_path / f"{name}.{suffix}" for name in ("first", "second"))
        assert first.read_bytes() == second.read_bytes()


def test_by_window_draws_each_window_of_each_model(texts: Texts) -> None:
    rows = [
        {"theiler_window": window, "model": "base", "module": "block", "layer": 0,
         "estimator": f"gride_{scale}", "mean": 50.0, "standard_error": 0.1,
         "mean_without_sinks": scale + window, "standard_error_without_sinks": 0.1, "n_eff": 250.0}
        for window in (0, 8, 32) for scale in (2, 4, 8, 16)
    ]  # fmt: skip
    windows = pd.DataFrame(rows).astype({"layer": "Int64"})
    figure = id_by_window(labelled([windows, windows.assign(model="other")], [None, None]))
    drawn_lines = {line.get_label(): line for line in figure.axes[0].lines}
    assert len(drawn_lines) == 6
    np.testing.assert_allclose(drawn_lines["base, 8"].get_ydata(), [10, 12, 16, 24])
    assert drawn_lines["base, 8"].get_linestyle() != drawn_lines["other, 8"].get_linestyle()
    words = texts(figure)
    for word in ("block 0, n = 250", "tokens in time left out", "32", "model", "other"):
        assert word in words, word
    assert "intrinsic dimension (GRIDE, without sinks)" in words


def test_by_step_leaves_out_models_without_a_step(ids_table: Table, texts: Texts) -> None:
    tables = [ids_table("base"), ids_table("late"), ids_table("drawn")]
    figure = id_by_step(joined(tables, [0, 100, None]))
    steps = {float(x) for axis in figure.axes for line in axis.lines for x in line.get_xdata()}
    assert steps == {0, 100}
    texts(figure)


def test_against_loss_draws_a_share_of_very_many_contexts_and_says_so(
    ids_table: Table, texts: Texts, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = ids_table("base", n_documents=8, kinds=("block",))
    every = id_against_loss(table)
    n_contexts = table["row"].nunique()
    monkeypatch.setattr(dimensions, "MOST_POINTS", 4 * 5)  # 4 panels
    figure = id_against_loss(table)
    axes = [axis for axis in figure.axes if axis.get_visible()]
    assert [len(axis.lines[0].get_xdata()) for axis in axes] == [5] * 4
    assert (
        f"loss of the context (nats per token); 5 of {n_contexts} contexts drawn, ρ of all"
        in texts(figure)
    )
    titles = [[axis.get_title() for axis in one.axes] for one in (figure, every)]
    assert titles[0] == titles[1]


def test_files_of_a_figure_are_laid_out_once_as_matplotlib_does_it(
    checkpoints: pd.DataFrame, tmp_path: Path
) -> None:
    """The SVG has the bytes that matplotlib writes alone, and the PDF nearly the same places."""
    with paper_style():
        figure = id_by_step(checkpoints)
        figure.savefig(tmp_path / "alone.svg", metadata={"Date": None})
    figure = id_by_step(checkpoints)
    engine, canvas, dpi = figure.get_layout_engine(), figure.canvas, figure.dpi
    save(figure, [tmp_path / "ours.svg"])
    assert (tmp_path / "ours.svg").read_bytes() == (tmp_path / "alone.svg").read_bytes()
    assert type(figure.get_layout_engine()) is type(engine)
    assert (figure.canvas, figure.dpi) == (canvas, dpi)
    places = [axis.get_position().bounds for axis in figure.axes]
    with paper_style():
        alone = id_by_step(checkpoints)
        alone.savefig(tmp_path / "alone.pdf")
    for axis, place in zip(alone.axes, places, strict=True):
        assert axis.get_position().bounds == pytest.approx(place, abs=0.005)


def test_a_figure_that_cannot_be_laid_out_keeps_its_canvas(tmp_path: Path) -> None:
    class Broken(ConstrainedLayoutEngine):
        def execute(self, fig: Figure) -> None:
            super().execute(fig)
            raise ValueError("no room")

    figure = Figure(layout=Broken())
    figure.subplots()
    canvas, dpi = figure.canvas, figure.dpi
    with pytest.raises(ValueError, match="no room"):
        save(figure, [tmp_path / "ours.svg"])
    assert (figure.canvas, figure.dpi) == (canvas, dpi)
    assert isinstance(figure.get_layout_engine(), Broken)
    assert list(tmp_path.iterdir()) == []


def test_panels_with_other_contexts_have_their_own_correlations(
    ids_table: Table, texts: Texts
) -> None:
    table = ids_table("base", n_documents=8, kinds=("block",))
    titles = [axis.get_title() for axis in id_against_loss(table).axes]
    fewer = table[(table["layer"] != 1).fillna(True) | (table["document"] != "d0")]
    found = [axis.get_title() for axis in id_against_loss(fewer).axes]
    assert found[0] == titles[0]
    assert found[2:] == titles[2:]
    assert found[1] != titles[1]
    texts(id_against_loss(fewer))
