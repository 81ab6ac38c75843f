"""Fixtures: the tiny workflow, empty, finished, or a copy of the finished one."""

import shutil
from pathlib import Path

import pytest
from tiny_workflow import TINY, Workflow


@pytest.fixture
def workflow(tmp_path: Path) -> Workflow:
    """An empty folder for the tiny workflow."""
    return Workflow(tmp_path, TINY)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Workflow:
    """A finished tiny workflow that no test changes."""
    done = Workflow(tmp_path_factory.mktemp("finished"), TINY)
    done("-c2", "--report", "results/report.html", "--report-after-run")
    return done


@pytest.fixture
def copied(finished: Workflow, tmp_path: Path) -> Workflow:
    """A copy of a finished workflow, dates and records included."""
    shutil.copytree(finished.folder, tmp_path / "w", symlinks=True)
    return Workflow(tmp_path / "w", TINY)
