"""What a method adds to the report: its figures and tables with their captions."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from terse.config.methods import methods, settings_of
from terse.errors import TerseError
from terse.figures.study import FinishedRun, figures_of, joined_tables
from terse.figures.style import save
from terse.methods.causal_lm.spec import CAUSAL_LM
from terse.methods.compression.figures import ARMS, arms, recovery
from terse.methods.compression.spec import COMPRESSION


def finished(name: str, shift: float = 0.0, **changes: Any) -> FinishedRun:
    """A run whose recovery is 0.1 c + shift."""
    settings: Any = settings_of(
        {"method": "compression", "base": "b", "corpus": "c", "max_steps": 5, "seq_len": 24,
         "seq_len_counts": "after", "cmp_len": 48, "checkpoint_steps": [], **changes}
    )  # fmt: skip
    rows = [("loss_nats", arm, 5.0 - 0.1 * i) for i, arm in enumerate(ARMS)]
    rows += [
        ("recovery", "compressed", 0.1 * settings.n_cmps + shift),
        ("recovery", "static", 0.05),
    ]
    table = pd.DataFrame(rows, columns=["measure", "arm", "value"])
    table["interval_low"], table["interval_high"] = table["value"] - 0.01, table["value"] + 0.02
    return FinishedRun(name, settings, table, {"samples": pd.DataFrame({"context": [name]})})


RUNS = [
    finished("c1", n_cmps=1), finished("c4", n_cmps=4), finished("c4s", 0.2, n_cmps=4, seed=1),
    finished("k16", n_cmps=4, cmp_len=16), finished("half", n_cmps=4, cmp_layer="half"),
    finished("l0", n_cmps=4, cmp_layer=0), finished("out", n_cmps=4, cmp_layer="output"),
]  # fmt: skip


def line_of(ax: Any, colour: str) -> Any:
    lines = [line for line in ax.lines if line.get_color() == colour]
    return next(line for line in lines if line.get_marker() == "None")


def test_recovery_is_drawn_against_each_thing_that_varies() -> None:
    from terse.figures.style import BLUE

    panels = recovery(RUNS).axes
    assert [ax.get_xlabel() for ax in panels] == [
        "vectors c", "tokens k that they replace", "hidden state they are read from",
    ]  # fmt: skip
    ticks = [[label.get_text() for label in ax.get_xticklabels()] for ax in panels]
    assert ticks == [["1", "4"], ["16", "48"], ["0", "half", "-2", "output"]]
    # the mean over the seeds stands on the line
    np.testing.assert_allclose(line_of(panels[0], BLUE).get_ydata(), [0.1, 0.5])
    np.testing.assert_allclose(line_of(panels[2], BLUE).get_ydata(), [0.4, 0.4, 0.5, 0.4])


def test_arms_have_a_panel_for_each_length() -> None:
    visible = [ax for ax in arms(RUNS).axes if ax.get_visible()]
    assert [ax.get_title() for ax in visible] == [
        "k = 48, then 24 tokens",
        "k = 16, then 24 tokens",
    ]
    assert [label.get_text() for label in visible[0].get_yticklabels()] == list(ARMS)


def test_one_run_is_a_point_of_one_panel(tmp_path: Path) -> None:
    assert [ax.get_xlabel() for ax in recovery(RUNS[:1]).axes] == ["vectors c"]
    for name, figure in figures_of(COMPRESSION, [RUNS[0]]).items():
        save(figure, [tmp_path / f"{name}.svg"])
    assert {f.name for f in tmp_path.iterdir()} == {"arms.svg", "recovery.svg"}


def test_tables_of_all_runs_stand_below_one_another() -> None:
    table = joined_tables(COMPRESSION, RUNS[:2])["samples"]
    assert table.to_dict("list") == {"run": ["c1", "c4"], "context": ["c1", "c4"]}


def test_what_has_no_caption_is_refused() -> None:
    run = FinishedRun("c", RUNS[0].settings, RUNS[0].evaluation, {"secret": pd.DataFrame()})
    with pytest.raises(TerseError, match="'secret' has no caption"):
        joined_tables(COMPRESSION, [run])


def test_a_method_without_figures_has_none() -> None:
    settings = settings_of({"method": "causal-lm", "corpus": "c", "tokenizer": "t", "max_steps": 3})
    assert figures_of(CAUSAL_LM, [FinishedRun("p", settings, pd.DataFrame(), {})]) == {}


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name != "forgetting" else [])
        for name in sorted(methods())
    ],
)
def test_drawing_needs_no_torch(method: str) -> None:
    import subprocess
    import sys

    figures = methods()[method].figures
    if figures is None:
        return
    code = f"import sys, {figures.partition(':')[0]}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
