"""Score all evictions of a study on a part of its windows; they share the pass over a context."""

from pathlib import Path
from typing import Any

from terse import job
from terse.artifacts import atomic_file, write_json
from terse.config.ways import load_reader
from terse.evaluation.frontier.together import read_evictions_or_why
from terse.evaluation.frontier.windows import dealt, flagged, read_windows
from terse.provenance import digest_file, record


def score_evictions(
    *,
    ways: list[str],
    part: int,
    n_parts: int,
    model_folder: Path,
    loading: dict[str, Any],
    device: str,
    windows_path: Path,
    rates: list[float],
    estimators: list[str],
    seed: int,
    trained_on: list[Path],
    table_path: Path,
    record_path: Path,
) -> None:
    """Write a row for each way, window and rate, or one that says why a way failed, and a record.

    part: of n_parts, of the windows. trained_on: documents files whose text trained the reader.
    """
    windows = dealt(read_windows(windows_path), part, n_parts)
    table = read_evictions_or_why(
        lambda: load_reader(model_folder, loading, device), ways, windows, rates,
        estimators=estimators, seed=seed,
    )  # fmt: skip
    table = flagged(table, windows, trained_on)
    with atomic_file(table_path) as partial:
        table.to_csv(partial, index=False)
    settings = {"ways": ways, "rates": rates, "estimators": estimators, "seed": seed}
    settings |= {"part": part, "n_parts": n_parts}
    inputs = {"model": digest_file(model_folder), "windows": digest_file(windows_path)}
    write_json(record_path, record(settings=settings, inputs=inputs, device=device))


if __name__ == "__main__":
    with job.logged(snakemake):
        score_evictions(
            ways=list(snakemake.params.ways),
            part=int(snakemake.wildcards.part),
            n_parts=snakemake.params.n_parts,
            model_folder=job.weights_of(snakemake.input.model, snakemake.params.step),
            loading=snakemake.params.loading,
            device=job.device(snakemake),
            windows_path=Path(snakemake.input.windows),
            rates=list(snakemake.params.rates),
            estimators=list(snakemake.params.estimators),
            seed=snakemake.params.seed,
            trained_on=[Path(path) for path in snakemake.input.trained_on],
            table_path=Path(snakemake.output.table),
            record_path=Path(snakemake.output.record),
        )
