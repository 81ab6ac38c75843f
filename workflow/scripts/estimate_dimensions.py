"""Estimate intrinsic dimensions from cached activations, and list the heavy tokens."""

from pathlib import Path
from typing import Any

from terse import job
from terse.activations import cache
from terse.activations.heavy_tokens import heavy_token_table
from terse.activations.table import dimension_parts
from terse.activations.windows import window_table
from terse.artifacts import atomic_file, write_json
from terse.corpora.tokenizers import load_tokenizer
from terse.dimension.tidy_files import write_table
from terse.provenance import record


def estimate_dimensions(
    *,
    estimation: dict[str, Any],
    shards_folder: Path,
    tokenizer_folder: Path,
    trust_remote_code: bool,
    ids_path: Path,
    parquet_path: Path,
    summary_path: Path,
    windows_path: Path,
    heavy_path: Path,
    record_path: Path,
) -> None:
    """Write a model's table twice, its summary, the same by window, its heavy tokens, a record."""
    options = {key: value for key, value in estimation.items() if key != "save_IDs_list"}
    points = {key: options[key] for key in ("skip_first", "max_norm_multiple")}
    tokenizer = load_tokenizer(tokenizer_folder, trust_remote_code)
    with cache.open(shards_folder) as activations:
        parts = dimension_parts(activations, estimation["save_IDs_list"], **options)
        summary = write_table(parts, ids_path, parquet_path).assign(cloud=options["cloud"])
        windows = window_table(activations, estimation["save_IDs_list"], **points)
        heavy = heavy_token_table(activations, lambda token: tokenizer.decode([token]))
        about = activations.attributes
        n_documents = activations.rows["document"].nunique()
    if options["cloud"] != "context":  # one cloud, with points from many documents
        summary["n_documents"] = n_documents
    if about.get("quantisation"):
        summary["quantisation"] = about["quantisation"]
    for path, content in ((summary_path, summary), (windows_path, windows), (heavy_path, heavy)):
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
            tokenizer_folder=job.folder_of(snakemake.input.tokenizer),
            trust_remote_code=snakemake.params.trust_remote_code,
            ids_path=Path(snakemake.output.ids),
            parquet_path=Path(snakemake.output.parquet),
            summary_path=Path(snakemake.output.summary),
            windows_path=Path(snakemake.output.windows),
            heavy_path=Path(snakemake.output.heavy),
            record_path=Path(snakemake.output.record),
        )
