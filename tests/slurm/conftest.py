"""Fixtures: the cluster, and the workflow on it by `profiles/slurm`."""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

import cluster
from slurm_workflow import SlurmWorkflow
from tiny_workflow import ROOT, TINY

# `make test-slow` runs these tests in the background: there a shell has SIGINT ignored, which every
# child would inherit, so that no workflow started here could be interrupted.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def slurm() -> Iterator[None]:
    """The cluster of this machine; another session of tests waits for it."""
    without = [folder for folder in os.get_exec_path() if Path(folder).name != "no_cluster"]
    os.environ["PATH"] = os.pathsep.join(without)
    if (reason := cluster.unavailable()) is not None:
        # Where it must be there, as in CI, its absence is a failure.
        give_up = pytest.fail if os.environ.get("TERSE_REQUIRE_SLURM") else pytest.skip
        give_up(f"no SLURM cluster: {reason}")
    with cluster.held():
        yield


@pytest.fixture(scope="session")
def on_cluster(slurm: None, tmp_path_factory: pytest.TempPathFactory) -> SlurmWorkflow:
    """The whole tiny workflow, finished on the cluster; no test changes it."""
    folder = tmp_path_factory.mktemp("cluster")
    workflow = SlurmWorkflow(folder, TINY, ROOT / "tests" / "config" / "slurm.yaml")
    with workflow.watched():
        workflow("all")
    return workflow


@pytest.fixture
def workflow(on_cluster: SlurmWorkflow, tmp_path: Path) -> SlurmWorkflow:
    """A copy of it, whose text need not be prepared again."""
    shutil.copytree(on_cluster.folder, tmp_path / "w", symlinks=True)
    return SlurmWorkflow(tmp_path / "w", *on_cluster.overlays[1:])
