"""What a method adds to the report: figures and tables over all its runs.

A method names in its spec a function `draw(runs: list[FinishedRun]) -> dict[str, Figure]` that
needs no torch (`figures = "module:draw"`), and a caption for each name that it or `Method.tables`
returns (`captions`). The rule `plot_study` does the rest.
"""

import pkgutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from terse.errors import TerseError
from terse.settings.method_spec import MethodSpec
from terse.settings.run import Run


@dataclass(frozen=True)
class FinishedRun:
    """A trained and evaluated run.

    evaluation: the rows of its `evaluation.csv`. tables: its method's tables, by name. compared:
    the runs of other methods that are shown with this one.
    """

    name: str
    settings: Run
    evaluation: pd.DataFrame
    tables: dict[str, pd.DataFrame]
    compared: tuple["FinishedRun", ...] = ()


def figures_of(spec: MethodSpec[Any], runs: Sequence[FinishedRun]) -> dict[str, Figure]:
    """Return the figures for the runs of one method, by name; each has a caption."""
    if spec.figures is None:
        return {}
    figures = pkgutil.resolve_name(spec.figures)(list(runs))
    _check_captions(spec, figures)
    return figures


def joined_tables(spec: MethodSpec[Any], runs: Sequence[FinishedRun]) -> dict[str, pd.DataFrame]:
    """Return the tables for the runs of one method, by name, with `run` as the first column."""
    joined: dict[str, list[pd.DataFrame]] = {}
    for run in runs:
        for name, table in run.tables.items():
            with_run = table.copy()
            with_run.insert(0, "run", run.name)
            joined.setdefault(name, []).append(with_run)
    _check_captions(spec, joined)
    return {name: pd.concat(tables, ignore_index=True) for name, tables in joined.items()}


def _check_captions(spec: MethodSpec[Any], names: Iterable[str]) -> None:
    if lacking := sorted(set(names) - set(spec.captions)):
        raise TerseError(f"method {spec.name}: {lacking[0]!r} has no caption in its spec")
