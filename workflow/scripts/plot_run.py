"""Draw the loss curves of a run."""

from pathlib import Path

import pandas as pd

from terse import job
from terse.figures.style import save
from terse.figures.training import loss_curves


def plot_run(*, history_path: Path, figure_paths: list[Path]) -> None:
    """Write the figure in each format."""
    save(loss_curves(pd.read_csv(history_path)), figure_paths)


if __name__ == "__main__":
    with job.logged(snakemake):
        plot_run(
            history_path=Path(snakemake.input.history),
            figure_paths=[Path(path) for path in snakemake.output],
        )
