"""Draw the intrinsic dimensions of a family of models."""

from pathlib import Path

import pandas as pd

from terse import job
from terse.figures.dimensions import id_against_loss, id_by_layer, id_by_step, labelled
from terse.figures.style import save


def plot_dimensions(
    *,
    ids_paths: list[Path],
    summary_paths: list[Path],
    steps: list[int | None],
    figure_paths: list[Path],
) -> None:
    """Write the three figures as SVG, with a PDF of the same name beside each.

    Models come in the order of their training steps; the last one's contexts are drawn singly.
    """
    summary = labelled([pd.read_csv(path) for path in summary_paths], steps)
    figures = (
        id_by_layer(summary),
        id_by_step(summary),
        id_against_loss(pd.read_csv(ids_paths[-1])),
    )
    for figure, path in zip(figures, figure_paths, strict=True):
        save(figure, [path, path.with_suffix(".pdf")])


if __name__ == "__main__":
    with job.logged(snakemake):
        output = snakemake.output
        plot_dimensions(
            ids_paths=[Path(path) for path in snakemake.input.ids],
            summary_paths=[Path(path) for path in snakemake.input.summaries],
            steps=snakemake.params.steps,
            figure_paths=[Path(p) for p in (output.by_layer, output.by_step, output.against_loss)],
        )
