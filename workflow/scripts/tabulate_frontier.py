"""Compare all ways of a study of the frontier, as CSV and as a page for the report."""

from pathlib import Path

import pandas as pd

from terse import job
from terse.artifacts import atomic_file
from terse.evaluation.frontier.scores import Frontier, wide
from terse.figures.tables import page


def tabulate_frontier(
    *, ways: list[str], paths: list[Path], targets: str, seed: int, scores: Path, html: Path
) -> None:
    """Write the measures of each way and rate, one row each, and the page, a row for each rate."""
    readings = {way: pd.read_csv(path) for way, path in zip(ways, paths, strict=True)}
    table = Frontier(readings, targets, seed).table()
    with atomic_file(scores) as partial:
        table.to_csv(partial, index=False)
    with atomic_file(html) as partial:
        partial.write_text(page(wide(table), "The frontier"), encoding="utf-8")


if __name__ == "__main__":
    with job.logged(snakemake):
        tabulate_frontier(
            ways=list(snakemake.params.ways),
            paths=[Path(path) for path in snakemake.input.readings],
            targets=snakemake.params.targets,
            seed=snakemake.params.seed,
            scores=Path(snakemake.output.scores),
            html=Path(snakemake.output.page),
        )
