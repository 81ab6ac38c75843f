"""Join the lm-eval tables of all selected models, as CSV and as a page for the report."""

from pathlib import Path

import pandas as pd

from terse import job
from terse.artifacts import atomic_file
from terse.figures.tables import page


def tabulate_lm_eval(*, models: list[str], paths: list[Path], csv: Path, html: Path) -> None:
    """Write the joined table, with `model` as the first column."""
    tables = [pd.read_csv(path) for path in paths]
    for table, model in zip(tables, models, strict=True):
        table.insert(0, "model", model)
    joined = pd.concat(tables, ignore_index=True)
    with atomic_file(csv) as partial:
        joined.to_csv(partial, index=False)
    with atomic_file(html) as partial:
        partial.write_text(page(joined, "Tasks of lm-eval"), encoding="utf-8")


if __name__ == "__main__":
    with job.logged(snakemake):
        tabulate_lm_eval(
            models=snakemake.params.models,
            paths=[Path(path) for path in snakemake.input.tables],
            csv=Path(snakemake.output.csv),
            html=Path(snakemake.output.html),
        )
