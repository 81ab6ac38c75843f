"""Experiment trackers, through the Trainer's own integrations."""

import importlib.util
import os
from pathlib import Path

from terse.errors import TerseError


def report_to(tracking: str) -> list[str]:
    """Return the Trainer's `report_to` for a tracker.

    Raises TerseError where its package is not installed.
    """
    if tracking == "none":
        return []
    if importlib.util.find_spec(tracking) is None:
        raise TerseError(f"tracking: {tracking} is not installed: pip install {tracking}")
    return [tracking]


def prepare_tracking(tracking: str, results: Path, state: Path) -> None:
    """Point a tracker at the results folder, unless the user's environment says otherwise.

    MLflow writes to a local SQLite file; a resumed training goes on in the same MLflow run, whose
    id is kept in the state.
    """
    os.environ.setdefault("WANDB_DIR", str(results))
    os.environ.setdefault("WANDB_PROJECT", "terse")
    os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(results / "tensorboard"))
    if tracking != "mlflow":
        return
    os.environ.setdefault("MLFLOW_TRACKING_URI", f"sqlite:///{results.resolve() / 'mlflow.db'}")
    os.environ.setdefault("MLFLOW_EXPERIMENT_NAME", "terse")
    id_file = state / "mlflow-run-id"
    if id_file.exists():
        os.environ["MLFLOW_RUN_ID"] = id_file.read_text()


def remember_tracking_run(tracking: str, state: Path) -> None:
    """Keep the id of the MLflow run that has just been started."""
    if tracking != "mlflow":
        return
    import mlflow

    if (run := mlflow.active_run()) is not None:
        (state / "mlflow-run-id").write_text(run.info.run_id)
