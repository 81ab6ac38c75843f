"""Fixtures: the tiny workflow, empty, finished, or a copy of the finished one."""

import shutil
from pathlib import Path

import pytest

from tiny_workflow import TINY, Workflow


@pytest.fixture
def workflow(tmp_path: Path) -> Workflow:
    """An empty folder for the tiny workflow."""
    return Workflow(tmp_path, TINY)


@pytest.fixture
def copied(finished: Workflow, tmp_path: Path) -> Workflow:
    """A copy of a finished workflow, dates and records included."""
    shutil.copytree(finished.folder, tmp_path / "w", symlinks=True)
    return Workflow(tmp_path / "w", TINY)
