"""Compare all ways of a study of the frontier, as CSV and as a page for the report."""

from pathlib import Path

import pandas as pd

from terse import job
from terse.artifacts import atomic_file
from terse.evaluation.frontier.scores import Frontier, of_each_way, wide
from terse.figures.tables import page


def tabulate_frontier(
    *,
    ways: list[str],
    paths: list[Path],
    evictions: list[Path],
    order: list[str],
    targets: str,
    seed: int,
    scores: Path,
    html: Path,
) -> None:
    """Write the measures of each way and rate, one row each, and the page, a row for each rate.

    paths: the tables of `ways`. evictions: the tables of evictions, of parts of the windows.
    order: of all ways.
    """
    readings = {way: pd.read_csv(path) for way, path in zip(ways, paths, strict=True)}
    readings |= of_each_way([pd.read_csv(path) for path in evictions])
    table = Frontier({way: readings[way] for way in order}, targets, seed).table()
    with atomic_file(scores) as partial:
        table.to_csv(partial, index=False)
    with atomic_file(html) as partial:
        partial.write_text(page(wide(table), "The frontier"), encoding="utf-8")


if __name__ == "__main__":
    with job.logged(snakemake):
        tabulate_frontier(
            ways=list(snakemake.params.ways),
            paths=[Path(path) for path in snakemake.input.readings],
            evictions=[Path(path) for path in snakemake.input.evictions],
            order=list(snakemake.params.order),
            targets=snakemake.params.targets,
            seed=snakemake.params.seed,
            scores=Path(snakemake.output.scores),
            html=Path(snakemake.output.page),
        )
