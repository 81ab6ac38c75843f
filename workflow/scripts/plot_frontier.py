"""Draw bits per byte of all ways of a study over what is held, and over FLOPs."""

from pathlib import Path

import pandas as pd

from terse import job
from terse.figures.frontier import draw_frontier
from terse.figures.style import save


def plot_frontier(*, scores: Path, svg: Path, pdf: Path) -> None:
    """Write the picture of a study's `scores.csv`."""
    save(draw_frontier(pd.read_csv(scores)), [svg, pdf])


if __name__ == "__main__":
    with job.logged(snakemake):
        plot_frontier(
            scores=Path(snakemake.input.scores),
            svg=Path(snakemake.output.svg),
            pdf=Path(snakemake.output.pdf),
        )
