"""Figures of forgetting runs show the values of their tables."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from terse.config.methods import settings_of
from terse.figures.study import FinishedRun, figures_of, joined_tables
from terse.figures.style import save
from terse.methods.forgetting.figures import LINE_WIDTH, bits_per_byte, curves, passage
from terse.methods.forgetting.spec import FORGETTING

RATES = (0.1, 0.5, 0.9)


def finished(name: str, whole: float = 2.0, worse: float = 0.0, **changes: Any) -> FinishedRun:
    settings = settings_of(
        {"method": "forgetting", "base": "b", "corpus": "c", "max_steps": 8, "checkpoint_steps": [],
         **changes}
    )  # fmt: skip
    rows: list[Any] = [("base", -0.1)]
    for i, rate in enumerate(RATES):
        rows += [
            (f"mask-f{rate}", 0.05 + worse + 0.1 * i),
            (f"sink_recency-f{rate}", 0.2 + 0.1 * i),
        ]
        rows += [(f"saliency-f{rate}", 7.0)]
    table = pd.DataFrame(rows, columns=["arm", "value"])
    table["measure"] = "over_identity_bits_per_byte"
    table.loc[len(table)] = ["identity", whole, "bits_per_byte"]
    table["interval_low"], table["interval_high"] = table["value"] - 0.01, table["value"] + 0.02
    cost = pd.DataFrame({"forget_rate": [0.0, *RATES]})
    for column in ("wall_ratio", "forward_flops_ratio", "linear_ratio", "attention_ratio"):
        cost[column] = 1 - 0.8 * cost["forget_rate"]
    tokens = pd.DataFrame(
        {"token": ['"The "', '"$x_1$ "', '"end↵"'] * 40, "keep_prob": [0.9, 0.2, 0.6] * 40,
         "kept": [True, False, True] * 40, "droppable": True}
    )  # fmt: skip
    return FinishedRun(name, settings, table, {"cost": cost, "tokens": tokens})


RUNS = [finished("a-0"), finished("a-1", 2.1, 0.04, seed=1), finished("b", mask="rnn")]


def test_rates_come_out_of_the_arms_names() -> None:
    found = curves(RUNS[0], "over_identity_bits_per_byte")
    assert set(found) == {"base", "mask", "sink_recency", "saliency"}
    assert list(found["sink_recency"]["rate"]) == list(RATES)


def test_seeds_share_a_panel_with_their_mean_and_band() -> None:
    figure = bits_per_byte(RUNS)
    panels = [ax for ax in figure.axes if ax.get_visible()]
    assert len(panels) == 2
    assert "2 seeds" in panels[0].get_title()
    lines = {str(line.get_label()): line for line in panels[0].lines}
    np.testing.assert_allclose(lines["mask"].get_ydata(), [2.12, 2.22, 2.32])
    assert list(lines["mask"].get_xdata()) == list(RATES)
    assert "saliency: off the scale" in lines
    bands = panels[0].collections
    heights = bands[0].get_paths()[0].get_extents()
    assert heights.y0 == pytest.approx(2.05 + 0.05 - 0.01)  # the widest of the seeds
    assert heights.y1 == pytest.approx(2.05 + 0.29 + 0.02)


def test_the_passage_is_written_and_shaded() -> None:
    ax = passage(RUNS[:1]).axes[0]
    texts = [t.get_text() for t in ax.texts]
    assert "".join(texts).startswith("The $x_1$ end↵The ")
    assert len(texts) == 120
    assert len({p.get_y() for p in ax.patches}) > 1  # it wraps
    assert max(p.get_x() + p.get_width() for p in ax.patches) <= LINE_WIDTH
    assert len(ax.lines) == 40  # those that are forgotten are struck through
    shades = [p.get_facecolor()[0] for p in ax.patches[:3]]
    assert shades[0] < shades[2] < shades[1]  # dark is kept


def test_all_figures_and_tables_have_captions_and_can_be_saved(tmp_path: Path) -> None:
    for name, figure in figures_of(FORGETTING, RUNS).items():
        save(figure, [tmp_path / f"{name}.svg"])
        assert (tmp_path / f"{name}.svg").stat().st_size > 3000
    assert set(joined_tables(FORGETTING, RUNS)) == {"cost", "tokens"}
