"""What a method adds to the report: figures and tables over all its runs.

A method names in its settings a function `draw(runs: list[FinishedRun]) -> dict[str, Figure]` that
needs no torch (`figures = "module:draw"`), and a caption for each name that it or `Method.tables`
gives (`captions`). The rest is the rule `plot_study`.
"""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from terse.errors import TerseError
from terse.settings.run import Run


@dataclass(frozen=True)
class FinishedRun:
    """A trained and evaluated run.

    evaluation: the rows of its `evaluation.csv`. tables: those of its method, by name. compared:
    the runs of other methods that stand beside those of this one.
    """

    name: str
    settings: Run
    evaluation: pd.DataFrame
    tables: dict[str, pd.DataFrame]
    compared: tuple["FinishedRun", ...] = ()


def figures_of(runs: Sequence[FinishedRun]) -> dict[str, Figure]:
    """Return the figures of runs of one method, by name; each has a caption."""
    settings = runs[0].settings
    if settings.figures is None:
        return {}
    module, _, function = settings.figures.partition(":")
    figures = getattr(importlib.import_module(module), function)(list(runs))
    _check_captions(settings, figures)
    return figures


def joined_tables(runs: Sequence[FinishedRun]) -> dict[str, pd.DataFrame]:
    """Return the tables of runs of one method, by name, a column `run` before the others."""
    joined: dict[str, list[pd.DataFrame]] = {}
    for run in runs:
        for name, table in run.tables.items():
            with_run = table.copy()
            with_run.insert(0, "run", run.name)
            joined.setdefault(name, []).append(with_run)
    _check_captions(runs[0].settings, joined)
    return {name: pd.concat(tables, ignore_index=True) for name, tables in joined.items()}


def _check_captions(settings: Run, named: dict) -> None:
    if lacking := sorted(set(named) - set(settings.captions)):
        raise TerseError(f"method {settings.method}: {lacking[0]!r} has no caption in its settings")
