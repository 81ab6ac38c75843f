"""Two processes on this machine train as one does, and resume where they were stopped."""

import json
import signal

import numpy as np
import pandas as pd
import psutil
import pytest

from tiny_workflow import TINY, Workflow, wait_for

pytestmark = pytest.mark.slow

RUN = {"max_steps": 60, "save_interval": 20, "log_interval": 5, "eval_interval": 30}
TARGET = "results/runs/base/history.csv"


def overlaid(workflow: Workflow, **run: int) -> Workflow:
    path = workflow.folder / f"overlay-{len(run)}.yaml"
    path.write_text(json.dumps({"compute": "cpu", "runs": {"base": RUN | run}}))
    return Workflow(workflow.folder, TINY, path)


def test_two_processes_stop_together_and_go_on(workflow: Workflow) -> None:
    pair = overlaid(workflow, gpu=2)
    started = pair.start("-c4", TARGET)
    wait_for(lambda: list(pair.folder.glob("state/train/base/*/checkpoint-20")))
    for process in psutil.Process(started.pid).children(recursive=True):
        if process.environ().get("RANK") == "1":
            process.send_signal(signal.SIGTERM)
    assert started.wait(timeout=240) != 0
    told = (pair.folder / "started.log").read_text()
    assert told.count("train_model base: stopped by a signal to another process at step") == 1
    pair("-c4", TARGET)
    weights = pair.weights()
    pair("-c4", "--forcerun", "train_model", "--", TARGET)
    assert pair.weights() == weights
    table = pd.read_csv(pair.folder / TARGET)
    assert json.loads((pair.folder / "results/runs/base/run.json").read_text())["n_processes"] == 2
    overlaid(workflow)("-c4", "--forcerun", "train_model", "--", TARGET)
    one = pd.read_csv(pair.folder / TARGET)
    np.testing.assert_allclose(table["loss_nats"], one["loss_nats"], rtol=1e-5)
