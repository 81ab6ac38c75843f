"""Show which tokens of a family of models are heavy."""

from pathlib import Path

import pandas as pd

from terse import job
from terse.activations.heavy_summary import heavy_token_summary
from terse.artifacts import atomic_file
from terse.figures.tables import page

MOST_ROWS = 200  # per model on the page


def tabulate_heavy_tokens(heavy_paths: list[Path], table_path: Path, page_path: Path) -> None:
    """Write a row per model, kind of module and token as CSV, and the heaviest as a page."""
    read = [pd.read_csv(path, keep_default_na=False, na_values=[""]) for path in heavy_paths]
    summaries = [heavy_token_summary(table) for table in read]
    with atomic_file(table_path) as partial:
        pd.concat(summaries, ignore_index=True).to_csv(partial, index=False)
    shown = pd.concat([summary.head(MOST_ROWS) for summary in summaries], ignore_index=True)
    with atomic_file(page_path) as partial:
        partial.write_text(page(shown, "Heavy tokens"), encoding="utf-8")


if __name__ == "__main__":
    with job.logged(snakemake):
        tabulate_heavy_tokens(
            [Path(path) for path in snakemake.input.heavy],
            Path(snakemake.output.table),
            Path(snakemake.output.page),
        )
