"""Draw a method's own figures of its runs, and join their tables."""

from pathlib import Path
from typing import Any

import pandas as pd

from terse import job
from terse.artifacts import atomic_folder
from terse.config.methods import settings_of, spec_of
from terse.figures.study import FinishedRun, figures_of, joined_tables
from terse.figures.style import save
from terse.figures.tables import page


def plot_study(
    *,
    runs: dict[str, dict[str, Any]],
    evaluation_paths: list[Path],
    table_folders: list[Path],
    compared: dict[str, dict[str, Any]],
    compared_paths: list[Path],
    study_folder: Path,
) -> None:
    """Write each figure as SVG and PDF, and each joined table as CSV and as a page."""
    others = tuple(
        FinishedRun(name, settings_of(run), pd.read_csv(path), {})
        for (name, run), path in zip(compared.items(), compared_paths, strict=True)
    )
    finished = [
        FinishedRun(name, settings_of(run), pd.read_csv(path), _tables(folder), others)
        for (name, run), path, folder in zip(
            runs.items(), evaluation_paths, table_folders, strict=True
        )
    ]
    spec = spec_of(finished[0].settings)
    with atomic_folder(study_folder) as partial:
        for name, figure in figures_of(spec, finished).items():
            save(figure, [partial / f"{name}.svg", partial / f"{name}.pdf"])
        for name, table in joined_tables(spec, finished).items():
            table.to_csv(partial / f"{name}.csv", index=False)
            (partial / f"{name}.html").write_text(page(table, name), encoding="utf-8")


def _tables(folder: Path) -> dict[str, pd.DataFrame]:
    return {path.stem: pd.read_csv(path) for path in sorted(folder.glob("*.csv"))}


if __name__ == "__main__":
    with job.logged(snakemake):
        plot_study(
            runs=snakemake.params.runs,
            evaluation_paths=[Path(path) for path in snakemake.input.evaluations],
            table_folders=[Path(path) for path in snakemake.input.tables],
            compared=snakemake.params.compared,
            compared_paths=[Path(path) for path in snakemake.input.compared],
            study_folder=Path(snakemake.output.study),
        )
