"""The store and the experiment that trainings report to, made once, however many start together."""

import logging
import os
import socket
from pathlib import Path

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

logger = logging.getLogger(__name__)

_FILE = "sqlite:///"


def opened(uri: str, experiment: str, artifacts: str) -> tuple[MlflowClient, str]:
    """Return a client of a store, and the id of an experiment in it; both are made where needed.

    MLflow fills an empty SQLite file by a long row of migrations, and two processes that do so at
    once break each other. So a new file is filled under a name of its own and then takes its final
    one in one step, which one process wins: that holds on several nodes as well, without a lock.
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
    """Return the id of an experiment; another process may make it at the same moment."""
    if (known := client.get_experiment_by_name(name)) is not None:
        return known.experiment_id
    try:
        return client.create_experiment(name, artifacts)
    except MlflowException:
        if (made := client.get_experiment_by_name(name)) is None:
            raise
        return made.experiment_id


def _take_name(own: Path, path: Path) -> None:
    """Give a file its final name, unless another file has it."""
    try:
        os.link(own, path)
    except FileExistsError:
        logger.info("another training has made %s", path)
    except OSError:  # a file system without hard links
        if not path.exists():
            own.replace(path)
