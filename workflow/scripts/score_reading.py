"""Score one way of reading on the windows of a study, at all its rates."""

from pathlib import Path
from typing import Any

from terse import job
from terse.artifacts import atomic_file, write_json
from terse.config.ways import make_reading
from terse.evaluation.frontier.reading import read_or_why
from terse.evaluation.frontier.windows import flagged, read_windows
from terse.provenance import digest_file, record
from terse.training.method import Inputs


def score_reading(
    *,
    way: str,
    model_folder: Path,
    reader: dict[str, Any],
    windows_path: Path,
    rates: list[float],
    estimators: list[str],
    trained_on: list[Path],
    table_path: Path,
    record_path: Path,
) -> None:
    """Write a row for each window and rate, or one that says why the way failed, and a record.

    reader: further arguments of `terse.config.ways.make_reading`. trained_on: documents files whose
    text trained the reader; a warning names the windows' documents among it.
    """
    windows = read_windows(windows_path)
    table = read_or_why(
        lambda: make_reading(way, model_folder, **reader), windows, rates, estimators
    )
    table = flagged(table, windows, trained_on)
    with atomic_file(table_path) as partial:
        table.to_csv(partial, index=False)
    settings = {"way": way, "rates": rates, "estimators": estimators}
    settings |= {"seed": reader["seed"], "run": reader["run"]}
    inputs = {"model": digest_file(model_folder), "windows": digest_file(windows_path)}
    write_json(record_path, record(settings=settings, inputs=inputs, device=reader["device"]))


if __name__ == "__main__":
    with job.logged(snakemake):
        score_reading(
            way=snakemake.wildcards.way,
            model_folder=job.weights_of(snakemake.input.model, snakemake.params.step),
            reader={
                "run": snakemake.params.run,
                "inputs": job.run_inputs(snakemake, Inputs),
                "loading": snakemake.params.loading,
                "seed": snakemake.params.seed,
                "device": job.device(snakemake),
            },
            windows_path=Path(snakemake.input.windows),
            rates=list(snakemake.params.rates),
            estimators=list(snakemake.params.estimators),
            trained_on=[Path(path) for path in snakemake.input.get("trained_on", [])],
            table_path=Path(snakemake.output.table),
            record_path=Path(snakemake.output.record),
        )
