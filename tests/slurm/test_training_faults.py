"""However a training's job is cut, it is submitted again and ends in the same weights."""

import re
import signal
from typing import Any

import psutil
import pytest

import cluster
from slurm_workflow import SlurmWorkflow, ended, pending_signals, wait_for_job
from tiny_workflow import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

SETTINGS = {
    "ctx_len": 64, "d_model": 32, "n_layers": 2, "n_heads": 2, "batch_size": 4, "n_grad_loops": 2,
    "method": "causal-lm", "corpus": "python-docs", "tokenizer": "bpe", "warmup_steps": 2,
    "max_steps": 120, "max_val_loops": 2, "log_interval": 20, "eval_interval": 60,
    "save_interval": 20, "checkpoint_steps": [0],
}  # fmt: skip
# The limit's warning comes between 89 s and 119 s from the start, when a training is in its middle
# on a busy machine too; then SIGTERM at 120 s or later.
RESOURCES = {
    "runtime": "2 if wildcards.run == 'limit' and attempt == 1 else 60",
    "mem_mb": "1500 * attempt",
    "slurm_extra": "'--signal=TERM@1'",
}


def targets(*runs: str) -> list[str]:
    return [f"results/runs/{run}/history.csv" for run in runs]


def runs(*names: str, **changes: Any) -> dict[str, Any]:
    return {"runs": dict.fromkeys(names, SETTINGS | changes)}


def stopped_in_the_middle(workflow: SlurmWorkflow, *runs: str) -> dict[str, psutil.Process]:
    """Return the processes of trainings, each stopped as soon as it has saved its state."""
    stopped: dict[str, psutil.Process] = {}

    def all_stopped() -> bool:
        for run in set(runs) - set(stopped):
            if list((workflow.folder / "state" / "train" / run).glob("*/checkpoint-*")):
                stopped[run] = wait_for_job(workflow, f"train_model {run}")
                stopped[run].suspend()
        return len(stopped) == len(runs)

    wait_for(all_stopped)
    return stopped


def resumed(workflow: SlurmWorkflow, run: str) -> list[int]:
    """Return the steps from which the last attempt of a run went on."""
    log = workflow.log(f"train_model {run}")
    return [int(step) for step in re.findall(r"resumes from step (\d+)", log)]


def test_faults_of_one_job(workflow: SlurmWorkflow) -> None:
    """Time limit, scancel, SIGKILL, out of memory, each in the middle of a training."""
    cut = ("limit", "cancel", "kill", "memory")
    faulty = workflow.changed(runs("calm", *cut), resources={"train_model": RESOURCES})
    started = faulty.start(*targets(*cut, "calm"))
    processes = stopped_in_the_middle(faulty, *cut)
    jobs = {run: faulty.jobs()[f"train_model {run}"] for run in cut}
    assert len(set(jobs.values())) == 4
    cluster.output("scancel", jobs["cancel"])
    processes["kill"].kill()
    (faulty.folder / "eat-memory").write_text(jobs["memory"])
    processes["memory"].resume()
    # SLURM wakes what it signals, but who is stopped by us may be signalled in between.
    wait_for(lambda: not processes["cancel"].is_running() or pending_signals(processes["cancel"]))
    resume(processes["cancel"])
    wait_for(lambda: not processes["limit"].is_running() or pending_signals(processes["limit"]))
    resume(processes["limit"])
    assert all(ended(process) for process in processes.values())
    assert started.wait(timeout=600) == 0, (faulty.folder / "started.log").read_text()
    weights = faulty.weights()
    for run in cut:
        assert weights[f"{run}/model/model.safetensors"] == weights["calm/model/model.safetensors"]
        # What a signal ends saves between two intervals of 20 steps; what is killed can't.
        saved = [step % 20 != 0 for step in resumed(faulty, run)]
        assert saved == [run in {"limit", "cancel"}], (run, resumed(faulty, run))
    assert resumed(faulty, "calm") == []
    ends = faulty.states(*jobs.values())
    assert ends[jobs["cancel"]] == "CANCELLED"
    assert ends[jobs["kill"]] == ends[jobs["memory"]] == "FAILED"
    # What it was told in time to save, it may end by itself or, on a busy machine, be ended.
    assert ends[jobs["limit"]] in {"FAILED", "TIMEOUT"}


def test_node_failures(workflow: SlurmWorkflow) -> None:
    """One node dies with all its processes; of the other slurmd dies and a training lives on."""
    names = ("one", "other", "calm")
    nodes = "{'one': '--nodelist=node1', 'other': '--nodelist=node2'}"
    placed = f"{nodes}.get(wildcards.run, '') if attempt == 1 else ''"
    faulty = workflow.changed(
        runs(*names), resources={"train_model": RESOURCES | {"slurm_extra": placed}}
    )
    started = faulty.start(*targets(*names))
    processes = stopped_in_the_middle(faulty, *names[:2])
    jobs = {run: faulty.jobs()[f"train_model {run}"] for run in names[:2]}
    wait_for(lambda: (faulty.folder / "results/runs/calm/history.csv").exists())
    wait_for(lambda: "train_model calm" not in faulty.jobs("RUNNING", "COMPLETING"))
    try:
        cluster.kill_node("node1")
        cluster.kill_slurmd("node2")
        assert ended(processes["one"])
        wait_for(lambda: set(faulty.states(*jobs.values()).values()) == {"NODE_FAIL"})
        cluster.start_node("node1")
        # The training that nobody could end is still the only writer of its state.
        wait_for(lambda: "waiting for process" in faulty.log("train_model other"))
        assert f"waiting for process {processes['other'].pid}" in faulty.log("train_model other")
        processes["other"].resume()
        assert started.wait(timeout=600) == 0, (faulty.folder / "started.log").read_text()
    finally:
        cluster.up()
    weights = faulty.weights()
    for run in names:
        assert weights[f"{run}/model/model.safetensors"] == weights["calm/model/model.safetensors"]
    assert len(resumed(faulty, "one")) == 1
    assert resumed(faulty, "calm") == []
    assert not list(faulty.folder.glob("state/train/*/*/"))


def resume(process: psutil.Process) -> None:
    if process.is_running():
        process.send_signal(signal.SIGCONT)
