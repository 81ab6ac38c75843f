"""Tabulate the differences between the layers and the steps of a family of models."""

from pathlib import Path

import pandas as pd

from terse import job
from terse.artifacts import atomic_file
from terse.dimension.comparison import between_layers, between_models
from terse.dimension.contexts import COLUMNS, gathered
from terse.dimension.tidy_files import parts_of
from terse.figures.tables import page


def compare_dimensions(ids_paths: list[Path], table_path: Path, page_path: Path) -> None:
    """Write the table as CSV and as a page; the models are in order of training step."""
    of_layers, of_models, before = [], [], None
    for path in ids_paths:  # two models are in memory at a time
        found = gathered(parts_of(path, COLUMNS))
        of_layers.append(between_layers(found))
        if before is not None:
            of_models.append(between_models(found, before))
        before = found
    parts = of_layers + of_models
    joined = pd.concat(parts, ignore_index=True).astype({"layer": "Int64"})
    with atomic_file(table_path) as partial:
        joined.to_csv(partial, index=False)
    with atomic_file(page_path) as partial:
        partial.write_text(page(joined, "Differences of dimensions"), encoding="utf-8")


if __name__ == "__main__":
    with job.logged(snakemake):
        compare_dimensions(
            [Path(path) for path in snakemake.input.ids],
            Path(snakemake.output.table),
            Path(snakemake.output.page),
        )
