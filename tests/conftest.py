"""Fixtures for all tests."""

import gc
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import settings

from hub_server import HubServer
from tiny_workflow import TINY, Workflow

# Snakemake's plugin for SLURM asks the controller when it is imported: where SLURM is installed but
# no cluster runs, each start of Snakemake would wait nine seconds for it.
NO_CLUSTER = Path(__file__).parent / "support" / "no_cluster"
os.environ["PATH"] = f"{NO_CLUSTER}{os.pathsep}{os.environ['PATH']}"
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as terse.job does, before torch is imported
settings.register_profile("any machine", deadline=None)  # a busy one is slow, not wrong
settings.load_profile("any machine")


def pytest_collection_finish() -> None:
    """Leave the imported libraries out of garbage collections: each training makes a full one."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the slow tests time: the machine may be busy, and a workflow is many processes."""
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(1200))


@pytest.fixture
def hub_server() -> Iterator[HubServer]:
    """An empty hub on this machine."""
    with HubServer() as server:
        yield server


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Workflow:
    """A finished tiny workflow that no test changes.

    Several sessions of tests share the one in the folder TERSE_FINISHED; the first makes it.
    """
    folder = Path(os.environ.get("TERSE_FINISHED") or tmp_path_factory.mktemp("finished"))
    done = Workflow(folder, TINY)
    with FileLock(f"{folder}.lock"):
        if not (folder / "results" / "report.html").exists():
            done("-c2", "--report", "results/report.html", "--report-after-run")
    return done


@pytest.fixture
def closed_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@pytest.fixture
def run_python(tmp_path: Path) -> Callable[..., str]:
    """Return a function that runs Python code in a fresh process, with the hub at a given URL.

    It returns what the code prints; a TerseError is printed as "TerseError: ..." by the code's
    wrapper, any other exception fails the test.
    """

    def run(code: str, endpoint: str, **environment: str) -> str:
        wrapped = (
            "from terse.errors import TerseError\ntry:\n"
            + "".join(f"    {line}\n" for line in code.strip().splitlines())
            + "except TerseError as error:\n    print('TerseError:', error)\n"
        )
        kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        result = subprocess.run(
            [sys.executable, "-c", wrapped],
            env={
                **kept,
                "HF_ENDPOINT": endpoint,
                "HF_HOME": str(tmp_path / "hf"),
                "HF_HUB_DISABLE_PROGRESS_BARS": "1",
                "HF_HUB_DISABLE_TELEMETRY": "1",
                "NO_PROXY": "*",
                **environment,
            },
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert result.returncode == 0, result.stderr
        return result.stdout.strip()

    return run
