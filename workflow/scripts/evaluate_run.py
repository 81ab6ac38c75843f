"""Score a run on held-out text."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from terse import job
from terse.artifacts import atomic_file
from terse.config.methods import settings_of
from terse.training.method import Inputs, method_of


def evaluate_run(
    *, run: dict[str, Any], inputs: Inputs, model_folder: Path, table_path: Path, device: str
) -> None:
    """Write the run's measures, one row each."""
    method = method_of(settings_of(run), inputs)
    measures = method.evaluate(method.load(model_folder), device)
    with atomic_file(table_path) as partial:
        pd.DataFrame([asdict(measure) for measure in measures]).to_csv(partial, index=False)


if __name__ == "__main__":
    with job.logged(snakemake):
        evaluate_run(
            run=snakemake.params.run,
            inputs=job.run_inputs(snakemake, Inputs),
            model_folder=Path(snakemake.input.model),
            table_path=Path(snakemake.output.evaluation),
            device=job.device(snakemake),
        )
