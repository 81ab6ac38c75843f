"""Write cached activations and their dimensions in ID_scaling's layout."""

from pathlib import Path

from terse import job
from terse.activations.export import export_id_scaling, read_table


def export_activations(*, shards_folder: Path, ids_path: Path, folder: Path) -> None:
    """Write a folder with one HDF5 file per module, losses, entropies and metadata."""
    export_id_scaling(shards_folder, folder, ids=read_table(ids_path))


if __name__ == "__main__":
    with job.logged(snakemake):
        export_activations(
            shards_folder=Path(snakemake.input.shards[0]).parent,
            ids_path=Path(snakemake.input.ids),
            folder=Path(snakemake.output.folder),
        )
