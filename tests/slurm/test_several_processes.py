"""One training by several processes, on one node and on two, beside the same by one process."""

import signal

import cluster
import numpy as np
import pandas as pd
import psutil
import pytest
from slurm_workflow import SlurmWorkflow
from test_training_faults import resumed, runs, targets
from tiny_workflow import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

PAIRS = {"pair": {"gpu": 2}, "killed": {"gpu": 2}, "across": {"nodes": 2}}
CURVE = {"max_steps": 60, "log_interval": 5, "eval_interval": 30}


def workers(workflow: SlurmWorkflow, job: str) -> list[psutil.Process]:
    """Return the processes that torchrun started for a job, in the order of their ranks."""
    number = workflow.jobs().get(job)
    found = {
        process.environ()["RANK"]: process
        for seen, process in workflow.at_work()
        if seen.job == number and "RANK" in process.environ()
    }
    return [found[rank] for rank in sorted(found)]


def wait_until_saved(workflow: SlurmWorkflow, run: str) -> list[psutil.Process]:
    state = workflow.folder / "state" / "train" / run
    wait_for(lambda: list(state.glob("*/checkpoint-*")), seconds=600)
    found = workers(workflow, f"train_model {run}")
    assert len(found) == 2
    return found


def test_two_processes_train_as_one_does(workflow: SlurmWorkflow) -> None:
    """The same losses; a killed worker, and a signal on two nodes, lead to the same weights."""
    several = {run: runs(run, **CURVE, **more)["runs"][run] for run, more in PAIRS.items()}
    config = {"runs": several | runs("one", **CURVE)["runs"]}
    asked = workflow.changed(config)
    started = asked.start(*targets("across", "killed"))
    places = {process.environ()["SLURMD_NODENAME"] for process in wait_until_saved(asked, "across")}
    assert places == set(cluster.NODES)
    cluster.output("scancel", asked.jobs()["train_model across"])
    wait_until_saved(asked, "killed")[1].send_signal(signal.SIGKILL)
    assert started.wait(timeout=600) == 0, (asked.folder / "started.log").read_text()
    assert resumed(asked, "across")[0] % 20 != 0  # saved by the signal, in all processes
    assert resumed(asked, "killed")[0] % 20 == 0
    asked(*targets("pair", "one"))
    weights = asked.weights()
    for run in ("across", "killed"):
        assert weights[f"{run}/model/model.safetensors"] == weights["pair/model/model.safetensors"]
    tables = {run: pd.read_csv(asked.folder / target) for run, target in zip(
        ("pair", "one"), targets("pair", "one"), strict=True
    )}  # fmt: skip
    assert len(tables["one"]) == 12 + 3
    np.testing.assert_allclose(tables["pair"]["loss_nats"], tables["one"]["loss_nats"], rtol=1e-5)
