"""However the workflow is cut, the same command ends in the same bytes."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tiny_workflow import ROOT, TINY, Workflow, kill_all, wait_for

pytestmark = pytest.mark.slow

LONG = ROOT / "tests" / "config" / "long.yaml"
TRAINED = "results/runs/base/history.csv"
TARGETS = (TRAINED, "results/ids/base.csv")


def training_state(workflow: Workflow, pattern: str) -> list[Path]:
    return list((workflow.folder / "state" / "train" / "base").glob(f"*/{pattern}"))


def training_process(workflow: Workflow) -> psutil.Process | None:
    for process in psutil.process_iter(["cmdline", "cwd"]):
        words = " ".join(process.info["cmdline"] or [])
        if process.info["cwd"] == str(workflow.folder) and words.endswith("train_model.py"):
            return process
    return None


def with_text_only(finished: Workflow, folder: Path) -> None:
    """Copy a finished workflow without what comes from its runs."""
    shutil.copytree(finished.folder, folder, symlinks=True, dirs_exist_ok=True)
    for made in ("results", "cache/activations", "cache/codes", "state"):
        shutil.rmtree(folder / made, ignore_errors=True)


@pytest.fixture(scope="module")
def undisturbed(finished: Workflow, tmp_path_factory: pytest.TempPathFactory) -> Workflow:
    """A finished workflow with the longer training that nothing interrupted."""
    done = Workflow(tmp_path_factory.mktemp("undisturbed"), TINY, LONG)
    with_text_only(finished, done.folder)
    done("-c2", *TARGETS)
    return done


@pytest.fixture
def workflow(finished: Workflow, tmp_path: Path) -> Workflow:
    """A folder with the text for the same."""
    with_text_only(finished, tmp_path)
    return Workflow(tmp_path, TINY, LONG)


def finish(workflow: Workflow, *targets: str) -> None:
    """Run the command again, as a person would after a kill."""
    workflow("--unlock")
    workflow("-c2", *(targets or (TRAINED,)))


@pytest.mark.parametrize(
    ("moment", "targets"),
    [
        ("checkpoint-40", (TRAINED,)), (".checkpoint-*.partial-*", (TRAINED,)),
        ("kept/step-60", TARGETS),  # and what follows
    ],
)  # fmt: skip
def test_kill_of_everything(
    moment: str, targets: tuple[str, ...], workflow: Workflow, undisturbed: Workflow
) -> None:
    started = workflow.start("-c2", *targets)
    wait_for(lambda: training_state(workflow, moment) or started.poll() is not None)
    assert started.poll() is None, (workflow.folder / "started.log").read_text()
    kill_all(started)
    assert not (workflow.folder / "results/runs/base/model").exists()
    finish(workflow, *targets)
    assert workflow.weights() == undisturbed.weights()
    assert workflow.tables() == (undisturbed.tables() if targets == TARGETS else {})


def test_sigterm_to_the_job_saves_and_goes_on(workflow: Workflow, undisturbed: Workflow) -> None:
    started = workflow.start("-c2", TRAINED)
    wait_for(lambda: training_state(workflow, "checkpoint-40") or started.poll() is not None)
    process = training_process(workflow)
    assert process is not None
    process.send_signal(signal.SIGTERM)
    assert started.wait(timeout=120) != 0
    log = (workflow.folder / "started.log").read_text()
    lines = [line for line in log.splitlines() if "stopped by SIGTERM at step" in line]
    assert len(lines) == 1
    assert lines[0].startswith("train_model base:")
    workflow("-c2", TRAINED)
    assert workflow.weights() == undisturbed.weights()
    assert "resumes from step" in (workflow.folder / "logs/train_model/base.log").read_text()


def test_orphaned_training_is_waited_for(workflow: Workflow, undisturbed: Workflow) -> None:
    """Snakemake alone is killed, its training lives on; the next one waits for it."""
    started = workflow.start("-c2", TRAINED)
    wait_for(lambda: training_state(workflow, "checkpoint-40") or started.poll() is not None)
    (owner,) = training_state(workflow, "owner.json")
    orphan = psutil.Process(json.loads(owner.read_text())["pid"])
    orphan.suspend()  # however long the next start takes, it is not done before
    os.kill(started.pid, signal.SIGKILL)
    started.wait()
    log = workflow.folder / "logs/train_model/base.log"
    workflow("--unlock")
    following = workflow.start("-c2", TRAINED)
    waits = f"waiting for process {orphan.pid}, which still writes the training of base"
    wait_for(lambda: (log.exists() and waits in log.read_text()) or following.poll() is not None)
    orphan.resume()
    assert following.wait(timeout=240) == 0
    assert workflow.weights() == undisturbed.weights()
    assert "another process has finished this training in the meantime" in log.read_text()


def test_changed_learning_rate_does_not_go_on(workflow: Workflow) -> None:
    started = workflow.start("-c2", TRAINED)
    wait_for(lambda: training_state(workflow, "checkpoint-40") or started.poll() is not None)
    kill_all(started)
    faster = workflow.folder / "faster.yaml"
    faster.write_text("runs: {base: {lr: 0.005}}")
    changed = Workflow(workflow.folder, *workflow.overlays[1:], faster)
    changed("--unlock")
    changed("-c2", TRAINED)
    assert "resumes from" not in (workflow.folder / "logs/train_model/base.log").read_text()
    assert training_state(workflow, "checkpoint-*")  # the old state, untouched


def test_make_run_goes_on_after_a_kill(
    tmp_path: Path, finished: Workflow, undisturbed: Workflow
) -> None:
    """`terse run`: its own lock, Snakemake's removed automatically, files named at the end."""
    with_text_only(finished, tmp_path)
    for name in ("Snakefile", "rules", "workflow", "profiles", "config"):
        (tmp_path / name).symlink_to(ROOT / name)
    words = ["--profile", "profiles/cpu", "--configfile", "config/config.yaml",
             str(TINY), str(LONG), "--", *TARGETS]  # fmt: skip
    command = [str(Path(sys.executable).with_name("terse")), "run", *words]
    with (tmp_path / "log").open("wb") as log:
        started = subprocess.Popen(
            command, cwd=tmp_path, stdout=log, stderr=log, start_new_session=True
        )
    state = tmp_path / "state" / "train" / "base"
    wait_for(lambda: list(state.glob("*/checkpoint-40")) or started.poll() is not None)
    waiting = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert waiting.stdout is not None
    assert "runs the workflow here; waiting" in waiting.stdout.readline()
    kill_all(started)  # the second goes on where the first was
    text = waiting.stdout.read()
    assert waiting.wait() == 0, text
    assert "an earlier run was interrupted; resuming" in text
    assert "results/report.html" in text
    assert Workflow(tmp_path).weights() == undisturbed.weights()
    assert Workflow(tmp_path).tables() == undisturbed.tables()
