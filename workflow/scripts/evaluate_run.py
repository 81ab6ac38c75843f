"""Score a run on held-out text."""

from pathlib import Path
from typing import Any

from terse import job
from terse.artifacts import atomic_file, atomic_folder, write_json
from terse.config.methods import method_of
from terse.evaluation.measures import measures_table
from terse.provenance import digest_file, record
from terse.training.method import Inputs


def evaluate_run(
    *,
    run: dict[str, Any],
    inputs: Inputs,
    model_folder: Path,
    table_path: Path,
    tables_folder: Path,
    record_path: Path,
    device: str,
) -> None:
    """Write the run's measures, one row each, the method's own tables, and a record."""
    method = method_of(run, inputs)
    model = method.load(model_folder)
    measures = method.evaluate(model, device)
    with atomic_folder(tables_folder) as partial:
        for name, table in method.tables(model, device).items():
            table.to_csv(partial / f"{name}.csv", index=False)
    with atomic_file(table_path) as partial:
        measures_table(measures).to_csv(partial, index=False)
    paths = {**vars(inputs), "model": model_folder}
    digests = {name: digest_file(path) for name, path in paths.items() if path is not None}
    write_json(record_path, record(settings=run, inputs=digests, device=device))


if __name__ == "__main__":
    with job.logged(snakemake):
        evaluate_run(
            run=snakemake.params.run,
            inputs=job.run_inputs(snakemake, Inputs),
            model_folder=Path(snakemake.input.model),
            table_path=Path(snakemake.output.evaluation),
            tables_folder=Path(snakemake.output.tables),
            record_path=Path(snakemake.output.record),
            device=job.device(snakemake),
        )
