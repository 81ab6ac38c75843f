"""Join the tables of all selected runs and models, as CSV and as pages for the report."""

from pathlib import Path

import pandas as pd

from terse import job
from terse.artifacts import atomic_file
from terse.figures.tables import page


def tabulate_results(
    *,
    runs: list[str],
    evaluation_paths: list[Path],
    summary_paths: list[Path],
    run_paths: tuple[Path, Path],
    dimension_paths: tuple[Path, Path],
) -> None:
    """Write the joined tables; each pair of paths is a CSV file and a page."""
    evaluations = [pd.read_csv(path) for path in evaluation_paths]
    for table, run in zip(evaluations, runs, strict=True):
        table.insert(0, "run", run)
    summaries = [pd.read_csv(path) for path in summary_paths]
    _publish(evaluations, run_paths, "Scores of the runs")
    _publish(summaries, dimension_paths, "Intrinsic dimensions")


def _publish(tables: list[pd.DataFrame], paths: tuple[Path, Path], title: str) -> None:
    joined = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
    if "layer" in joined:
        joined["layer"] = joined["layer"].astype("Int64")
    with atomic_file(paths[0]) as partial:
        joined.to_csv(partial, index=False)
    with atomic_file(paths[1]) as partial:
        partial.write_text(page(joined, title), encoding="utf-8")


if __name__ == "__main__":
    with job.logged(snakemake):
        output = snakemake.output
        tabulate_results(
            runs=snakemake.params.runs,
            evaluation_paths=[Path(path) for path in snakemake.input.evaluations],
            summary_paths=[Path(path) for path in snakemake.input.summaries],
            run_paths=(Path(output.runs), Path(output.runs_page)),
            dimension_paths=(Path(output.dimensions), Path(output.dimensions_page)),
        )
