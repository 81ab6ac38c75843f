"""Run the tasks of lm-eval on a model, or on a run with its own adapter."""

import pkgutil
from pathlib import Path
from typing import Any

from terse import job
from terse.artifacts import atomic_file, write_json
from terse.provenance import digest_file, record
from terse.settings.harness import Harness


def run_lm_eval(
    *,
    tasks: dict[str, Any],
    model_folder: Path,
    adapter: str,
    loading: dict[str, Any],
    base_folder: Path | None = None,
    corpus_tasks: Path | None,
    task_data: Path | None = None,
    table_path: Path,
    record_path: Path,
    device: str,
) -> None:
    """Write the tasks' metrics, one row each, and a record.

    adapter: "module:function" that makes lm-eval's model. base_folder: the folder of the base, if
    the model needs one. task_data: the folder of downloaded tasks, if there are any.
    """
    from terse.evaluation.lm_eval.harness import run_tasks, use_data
    from terse.models.loading import dtype_of

    settings = Harness.model_validate(tasks)
    if task_data is not None:
        use_data(task_data)
    build = pkgutil.resolve_name(adapter)
    if base_folder is not None:
        loading = {**loading, "base": base_folder}
    model = build(model_folder, device=device, batch_size=settings.batch_size, **loading)
    table = run_tasks(model, settings, corpus_tasks)
    with atomic_file(table_path) as partial:
        table.to_csv(partial, index=False)
    folders = {"model": model_folder, "base": base_folder}
    inputs = {name: digest_file(folder) for name, folder in folders.items() if folder is not None}
    more = {"dtype": dtype_of(model.model)} if hasattr(model, "model") else {}
    write_json(record_path, record(settings=tasks, inputs=inputs, device=device, **more))


if __name__ == "__main__":
    with job.logged(snakemake):
        run_lm_eval(
            tasks=snakemake.params.tasks,
            model_folder=job.weights_of(snakemake.input.model, snakemake.params.step),
            adapter=job.settings(snakemake).harness_adapter(snakemake.wildcards.scored),
            loading=snakemake.params.loading,
            base_folder=job.needed_base(snakemake, snakemake.params.base_step),
            corpus_tasks=job.optional_path(snakemake.input.corpus_tasks),
            task_data=job.optional_path(snakemake.input.task_data),
            table_path=Path(snakemake.output.table),
            record_path=Path(snakemake.output.record),
            device=job.device(snakemake),
        )
