"""The MLflow store and experiment, created once however many trainings start at the same time."""

import logging
import os
import socket
from pathlib import Path

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

logger = logging.getLogger(__name__)

_FILE = "sqlite:///"


def opened(uri: str, experiment: str, artifacts: str) -> tuple[MlflowClient, str]:
    """Return a client of a store and the id of an experiment in it, creating both where needed.

    MLflow fills an empty SQLite file by a long series of migrations, and two processes that do so
    at the same time break each other. So each process fills its own file and then links it to the
    final name atomically, which only one can do: safe across nodes, and without a lock.
    """
    if uri.startswith(_FILE) and not (path := Path(uri.removeprefix(_FILE))).exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        own = path.with_name(f".{path.name}.partial-{socket.gethostname()}-{os.getpid()}")
        try:
            _experiment(MlflowClient(f"{_FILE}{own}"), experiment, artifacts)
            _take_name(own, path)
        finally:
            own.unlink(missing_ok=True)
    client = MlflowClient(uri)
    return client, _experiment(client, experiment, artifacts)


def _experiment(client: MlflowClient, name: str, artifacts: str) -> str:
    """Return the id of an experiment; another process may create it at the same time."""
    if (known := client.get_experiment_by_name(name)) is not None:
        return known.experiment_id
    try:
        return client.create_experiment(name, artifacts)
    except MlflowException:
        if (made := client.get_experiment_by_name(name)) is None:
            raise
        return made.experiment_id


def _take_name(own: Path, path: Path) -> None:
    """Give a file its final name unless another file already has it."""
    try:
        os.link(own, path)
    except FileExistsError:
        logger.info("another training has already created %s", path)
    except OSError:  # a file system without hard links
        if not path.exists():
            own.replace(path)
