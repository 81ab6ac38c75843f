"""Estimate intrinsic dimensions from cached activations."""

from pathlib import Path
from typing import Any

from terse import job
from terse.activations import cache
from terse.activations.table import dimension_table
from terse.artifacts import atomic_file, write_json
from terse.dimension.statistics import summarise
from terse.provenance import record


def estimate_dimensions(
    *,
    estimation: dict[str, Any],
    shards_folder: Path,
    ids_path: Path,
    summary_path: Path,
    record_path: Path,
) -> None:
    """Write the table of one model, its summary per module and estimator, and a record."""
    options = {key: value for key, value in estimation.items() if key != "save_IDs_list"}
    with cache.open(shards_folder) as activations:
        table = dimension_table(activations, estimation["save_IDs_list"], **options)
        about = activations.attributes
        n_documents = activations.rows["document"].nunique()
    summary = summarise(table).assign(cloud=options["cloud"])
    if options["cloud"] != "context":  # one cloud, with points from many documents
        summary["n_documents"] = n_documents
    if about.get("quantisation"):
        summary["quantisation"] = about["quantisation"]
    for path, content in ((ids_path, table), (summary_path, summary)):
        with atomic_file(path) as partial:
            content.to_csv(partial, index=False)
    inputs = {key: str(about[key]) for key in ("fingerprint", "tokenizer_digest", "weights")}
    device = "cpu" if about["settings"]["save_cache_tensors"] else about["device"]
    write_json(record_path, record(settings=estimation, inputs=inputs, device=device, model=about))


if __name__ == "__main__":
    with job.logged(snakemake):
        estimate_dimensions(
            estimation=snakemake.params.estimation,
            shards_folder=Path(snakemake.input.shards[0]).parent,
            ids_path=Path(snakemake.output.ids),
            summary_path=Path(snakemake.output.summary),
            record_path=Path(snakemake.output.record),
        )
