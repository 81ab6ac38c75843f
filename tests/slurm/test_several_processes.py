"""One training by several processes, on one node and on two, compared with one process."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import psutil
import pytest

import cluster
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


def cut_when_saved(
    workflow: SlurmWorkflow, cuts: dict[str, Callable[[list[psutil.Process]], None]]
) -> None:
    """Cut each run's training as soon as it has saved its state, in whatever order that comes."""
    waiting = dict(cuts)

    def all_cut() -> bool:
        for run in list(waiting):
            if list((workflow.folder / "state" / "train" / run).glob("*/checkpoint-*")):
                found = workers(workflow, f"train_model {run}")
                assert len(found) == 2
                waiting.pop(run)(found)
        return not waiting

    wait_for(all_cut, seconds=600)


def test_two_processes_train_as_one_does(workflow: SlurmWorkflow) -> None:
    """The same losses; a killed worker, and a signal on two nodes, lead to the same weights."""
    several = {run: runs(run, **CURVE, **more)["runs"][run] for run, more in PAIRS.items()}
    config = {"runs": several | runs("one", **CURVE)["runs"]}
    asked = workflow.changed(config)
    started = asked.start(*targets("across", "killed"))

    def cancel(processes: list[psutil.Process]) -> None:
        places = {process.environ()["SLURMD_NODENAME"] for process in processes}
        assert places == set(cluster.NODES)
        cluster.output("scancel", asked.jobs()["train_model across"])

    def kill_one(processes: list[psutil.Process]) -> None:
        processes[1].kill()

    cut_when_saved(asked, {"across": cancel, "killed": kill_one})
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
