"""Download the data of lm-eval's tasks, so that the jobs that score models need no network."""

from pathlib import Path

from terse import job
from terse.artifacts import atomic_folder
from terse.settings.harness import Harness


def download_tasks(*, tasks: list[str], folder: Path) -> None:
    """Fill a folder with the data of tasks."""
    from terse.evaluation.lm_eval.harness import download_tasks as download

    with atomic_folder(folder) as partial:
        download(Harness.model_validate({"tasks": tasks}), partial)


if __name__ == "__main__":
    with job.logged(snakemake, network=True):
        download_tasks(tasks=snakemake.params.tasks, folder=Path(snakemake.output.data))
