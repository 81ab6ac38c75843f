"""Tabulate the differences between the layers and the steps of a family of models."""

from pathlib import Path

import pandas as pd

from terse import job
from terse.artifacts import atomic_file
from terse.dimension.comparison import between_layers, between_models
from terse.figures.tables import page


def compare_dimensions(ids_paths: list[Path], table_path: Path, page_path: Path) -> None:
    """Write the table as CSV and as a page; the models are in order of training step."""
    tables = [pd.read_csv(path) for path in ids_paths]
    parts = [between_layers(table) for table in tables]
    parts += [between_models(*pair) for pair in zip(tables[1:], tables, strict=False)]
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
