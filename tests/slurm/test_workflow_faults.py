"""What becomes of the jobs when the workflow itself is stopped, and of jobs that can't succeed."""

import re
import signal

import pytest

from slurm_workflow import SlurmWorkflow
from test_training_faults import resumed, runs, stopped_in_the_middle, targets
from tiny_workflow import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def test_signals_to_the_workflow(workflow: SlurmWorkflow) -> None:
    """SIGINT cancels the jobs, SIGTERM waits for them, SIGKILL leaves them alone."""
    asked = workflow.changed(runs("ended", "killed", "calm"))
    evaluations = [f"results/runs/{run}/evaluation.csv" for run in ("ended", "killed")]

    started = asked.start(targets("ended")[0])
    processes = stopped_in_the_middle(asked, "ended")
    started.send_signal(signal.SIGINT)
    processes["ended"].resume()
    assert started.wait(timeout=120) != 0
    wait_for(lambda: not asked.jobs("RUNNING", "PENDING", "COMPLETING"))
    assert not (asked.folder / "results/runs/ended/model").exists()

    started = asked.start(evaluations[0], *targets("calm"))
    wait_for(lambda: "resumes from step" in asked.log("train_model ended"))
    started.terminate()
    assert started.wait(timeout=240) != 0
    assert (asked.folder / "results/runs/ended/model").exists()
    assert not (asked.folder / evaluations[0]).exists()
    assert not asked.jobs("RUNNING", "PENDING", "COMPLETING")
    assert resumed(asked, "ended")[0] % 20 != 0

    started = asked.start(*evaluations, *targets("calm"))
    process = stopped_in_the_middle(asked, "killed")["killed"]
    started.kill()
    started.wait()
    old = asked.jobs()["train_model killed"]
    asked("--unlock")
    started = asked.start(*evaluations, *targets("calm"))
    sentence = rf"SLURM job {old} on \S+ still writes the training of killed \(RUNNING\); wait"
    logs = asked.folder / "logs" / "slurm" / "rule_train_model" / "killed"
    wait_for(lambda: any(re.search(sentence, log.read_text()) for log in logs.glob("*.log")))
    assert asked.jobs()["train_model killed"]  # the old job was left alone
    process.resume()
    assert started.wait(timeout=600) == 0, (asked.folder / "started.log").read_text()
    weights = asked.weights()
    for run in ("ended", "killed"):
        assert weights[f"{run}/model/model.safetensors"] == weights["calm/model/model.safetensors"]


def test_jobs_that_can_never_succeed(workflow: SlurmWorkflow) -> None:
    """Without the promised CUDA, or too large for any node: reported, and nothing lost."""
    refused, waiting = ("memory", "devices"), ("cores", "time")
    config = runs("blind", "memory", *waiting)["runs"] | runs("devices", gpu=4)["runs"]
    resources = {
        "mem_mb": "10**7 if wildcards.run == 'memory' else 2000",
        "cpus_per_task": "1000 if wildcards.run == 'cores' else 2",
        "runtime": "20000 if wildcards.run == 'time' else 60",
    }
    asked = workflow.changed(
        {"compute": "cuda", "runs": config | runs("fine", gpu=0)["runs"]},
        resources={"train_model": resources}, retries=1,
    )  # fmt: skip
    evaluation = "results/runs/fine/evaluation.csv"
    started = asked.start(*targets("blind", *refused, *waiting), evaluation)
    assert started.wait(timeout=600) != 0
    told = (asked.folder / "started.log").read_text()
    errors = {part.split(":")[0]: part for part in told.split("Error in rule ")[1:]}
    assert set(errors) == {"train_model"}
    assert "Memory specification can not be satisfied" in told
    for run in refused:
        assert re.search(
            rf"train_model.{{0,900}}{run}.{{0,900}}Requested node configuration is not", told, re.S
        ), run
    for run, reason in zip(waiting, ("PartitionConfig", "PartitionTimeLimit"), strict=True):
        sentence = (
            rf"train_model {run}: SLURM would leave job \d+ in the queue indefinitely \({reason}\)"
        )
        assert len(re.findall(sentence, told)) == 2  # attempts
    assert "log: logs/train_model/blind.log" in told
    assert "1 GPU(s) promised to this job, CUDA finds 0: use a GPU node, or gpu: 0" in told
    assert (asked.folder / evaluation).exists()
    assert not (asked.folder / "results/runs/blind/model").exists()
    assert asked.plan(evaluation) == {}
