"""Estimate the dimension of one cloud of all contexts on fewer and fewer of its points."""

from pathlib import Path
from typing import Any

from terse import job
from terse.activations import cache
from terse.activations.scales import scale_table
from terse.artifacts import atomic_file


def decimate_cloud(
    *, estimation: dict[str, Any], shards_folder: Path, curve_path: Path, seed: int
) -> None:
    """Write the curves of a model's modules."""
    options = {key: estimation[key] for key in ("max_norm_multiple", "theiler_window")}
    with cache.open(shards_folder) as activations:
        table = scale_table(activations, estimation["cloud"], seed=seed, **options)
    with atomic_file(curve_path) as partial:
        table.to_csv(partial, index=False)


if __name__ == "__main__":
    with job.logged(snakemake):
        decimate_cloud(
            estimation=snakemake.params.estimation,
            shards_folder=Path(snakemake.input.shards[0]).parent,
            curve_path=Path(snakemake.output.curve),
            seed=snakemake.params.seed,
        )
