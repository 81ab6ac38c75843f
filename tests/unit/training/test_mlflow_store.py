"""Trainings that start together on a fresh folder make one MLflow store and all report to it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mlflow")

from mlflow.tracking import MlflowClient

from terse.training.mlflow_store import opened
from tiny_workflow import wait_for

JOB = """
import sys, time
from pathlib import Path
from terse.training.mlflow_run import MLflowRun
root, name = Path(sys.argv[1]), sys.argv[2]
(root / name).mkdir()
while not (root / "go").exists():
    time.sleep(0.01)
MLflowRun(
    name, {"lr": 1}, results=root / "results", state=root / name, interval=5
).close("FINISHED")
"""


@pytest.mark.slow
def test_three_trainings_start_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    jobs = [
        subprocess.Popen([sys.executable, "-c", JOB, str(tmp_path), name], stderr=subprocess.PIPE)
        for name in "abc"
    ]
    wait_for(lambda: all((tmp_path / name).exists() for name in "abc"), seconds=200)
    (tmp_path / "go").touch()
    errors = [job.communicate(timeout=200)[1].decode() for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0, 0], errors
    client = MlflowClient(f"sqlite:///{tmp_path / 'results' / 'mlflow.db'}")
    experiments = [e for e in client.search_experiments() if e.name == "terse"]
    assert len(experiments) == 1
    runs = client.search_runs([experiments[0].experiment_id])
    assert sorted(run.info.run_name or "" for run in runs) == ["a", "b", "c"]
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["mlflow.db"]


def test_a_store_that_is_there_is_kept(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client, first = opened(uri, "terse", tmp_path.as_uri())
    run = client.create_run(first)
    again, second = opened(uri, "terse", tmp_path.as_uri())
    assert second == first
    assert [r.info.run_id for r in again.search_runs([first])] == [run.info.run_id]
    assert opened(uri, "other", tmp_path.as_uri())[1] != first
