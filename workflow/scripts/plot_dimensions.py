"""Draw one figure of the intrinsic dimensions of a family of models."""

from pathlib import Path

import pandas as pd

from terse import job
from terse.dimension.tidy_files import read_ids
from terse.errors import TerseError
from terse.figures.dimensions import (
    LOSS_COLUMNS,
    id_against_loss,
    id_by_layer,
    id_by_scale,
    id_by_size,
    id_by_step,
    id_by_window,
    labelled,
    representative,
)
from terse.figures.style import save


def plot_dimensions(
    *,
    figure: str,
    ids_paths: list[Path],
    summary_paths: list[Path],
    curve_paths: list[Path],
    window_paths: list[Path],
    steps: list[int | None],
    figure_paths: list[Path],
) -> None:
    """Write the figure: `by-layer`, `-step`, `-scale`, `-size`, `-window` or `against-loss`.

    Models are in order of training step; `against-loss` draws contexts of the last one.
    """
    if figure == "against-loss":
        save(id_against_loss(_contexts(ids_paths[-1])), figure_paths)
        return
    if figure == "by-size":
        save(id_by_size(labelled([pd.read_csv(path) for path in curve_paths], steps)), figure_paths)
        return
    if figure == "by-window":
        save(id_by_window(labelled(_windows(window_paths), steps)), figure_paths)
        return
    draw = {"by-layer": id_by_layer, "by-step": id_by_step, "by-scale": id_by_scale}[figure]
    save(draw(labelled([pd.read_csv(path) for path in summary_paths], steps)), figure_paths)


def _contexts(path: Path) -> pd.DataFrame:
    """Return what is drawn of each context, of one estimator."""
    known = read_ids(path, ["estimator"])["estimator"].unique()
    chosen = ("estimator", "=", representative(map(str, known)))
    return read_ids(path, LOSS_COLUMNS, [chosen])


def _windows(paths: list[Path]) -> list[pd.DataFrame]:
    tables = [pd.read_csv(path) for path in paths]
    for path, table in zip(paths, tables, strict=True):
        if table.empty:
            raise TerseError(
                f"{path} is empty: this figure needs the hidden states of every token; set "
                "save_cache_tensors: true"
            )
    return tables


if __name__ == "__main__":
    with job.logged(snakemake):
        plot_dimensions(
            figure=snakemake.wildcards.figure,
            ids_paths=[Path(path) for path in snakemake.input.ids],
            summary_paths=[Path(path) for path in snakemake.input.summaries],
            curve_paths=[Path(path) for path in snakemake.input.curves],
            window_paths=[Path(path) for path in snakemake.input.windows],
            steps=snakemake.params.steps,
            figure_paths=[Path(path) for path in snakemake.output],
        )
