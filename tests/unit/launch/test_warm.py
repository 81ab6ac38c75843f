"""A job that is a fork of a warm parent can't be told from one that bash starts."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from terse.launch import warm
from tiny_workflow import wait_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks on Linux only")

ABOUT = """
import json, os, sys, slow_package
print("to stderr", file=sys.stderr)
print(json.dumps([sys.argv, sys.path[0], __name__, __file__, os.getcwd(), dict(os.environ),
                  os.getpgrp(), os.umask(0), sys.stdin.read()]))
print(os.getppid())
sys.exit(3)
"""
SLEEPS = """
import os, signal, sys, time
def stop(*_):
    sys.exit(7)
signal.signal(signal.SIGTERM, stop)
print(os.getpid(), flush=True)
time.sleep(600)
"""


class Jobs:
    """Starts scripts as Snakemake does, with a shell."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.scripts = folder / ".snakemake" / "scripts"
        self.scripts.mkdir(parents=True)
        self.packages = folder / "packages"
        self.packages.mkdir()
        note = "from pathlib import Path\nwith Path(__file__).with_name('loads').open('a') as file:"
        (self.packages / "slow_package.py").write_text(f"{note}\n    file.write('x')\n")
        self.parent: subprocess.Popen[bytes]

    def start(self, shell: Path, text: str, threads: int = 1, **given: Any) -> Any:
        script = self.scripts / "tmp.job.py"
        script.write_text(text)
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        return subprocess.Popen(
            f"{sys.executable} {script}", shell=True, executable=shell, cwd=self.folder, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment,
            **given,
        )  # fmt: skip


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Jobs]:
    made = Jobs(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(made.packages))
    monkeypatch.delenv(warm.OFF, raising=False)
    monkeypatch.setenv("PS1", "(terse) $ ")  # as where an environment is activated
    yield made
    for parent in warm._parents:
        parent.kill()
        parent.communicate()
    warm._parents.clear()


@pytest.fixture
def shell(jobs: Jobs) -> Path:
    found = warm.warm_shell_of(jobs.folder, [1])
    assert found is not None
    jobs.parent = warm._parents[0]
    return found


def test_a_job_sees_what_bash_would_give_it(jobs: Jobs, shell: Path) -> None:
    """Of two jobs, the second loads nothing anew."""
    said = [jobs.start(s, ABOUT) for s in (Path("/bin/bash"), shell, shell)]
    texts = [job.communicate("typed")[0].splitlines() for job in said]
    assert [job.returncode for job in said] == [3, 3, 3]
    by_bash, first, second = (json.loads(text[0]) for text in texts)
    for seen in (by_bash, first, second):
        seen[5].pop("_", None)  # bash's own, and SHLVL
        seen[5].pop("SHLVL", None)
    assert by_bash == first == second
    assert [text[1] == str(jobs.parent.pid) for text in texts] == [False, True, True]
    assert (jobs.packages / "loads").read_text() == "xx"  # bash's job, and the parent


def test_signals_reach_the_job(jobs: Jobs, shell: Path) -> None:
    job = jobs.start(shell, SLEEPS)
    assert psutil.Process(int(job.stdout.readline())).ppid() == jobs.parent.pid
    job.send_signal(signal.SIGTERM)
    assert job.wait(60) == 7


def test_a_killed_job_looks_killed(jobs: Jobs, shell: Path) -> None:
    job = jobs.start(shell, SLEEPS)
    os.kill(int(job.stdout.readline()), signal.SIGKILL)
    assert job.wait(60) == -signal.SIGKILL


@pytest.mark.parametrize("victim", ["shell", "parent"])
def test_no_job_survives_its_shell_or_parent(victim: str, jobs: Jobs, shell: Path) -> None:
    job = jobs.start(shell, SLEEPS)
    process = psutil.Process(int(job.stdout.readline()))
    (job if victim == "shell" else jobs.parent).kill()
    assert job.wait(60) == (-signal.SIGKILL if victim == "shell" else 1)
    wait_for(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE)


def test_the_group_of_a_job_is_its_shells(jobs: Jobs, shell: Path) -> None:
    """Ctrl-C reaches it, and ends neither the parent nor the next job."""
    job = jobs.start(shell, SLEEPS, start_new_session=False, process_group=0)
    job.stdout.readline()
    os.killpg(job.pid, signal.SIGINT)
    assert job.wait(60) != 0
    assert "KeyboardInterrupt" in job.stderr.read()
    assert jobs.parent.poll() is None


ENDED = """
import os, signal, socket, struct, sys, time
from terse.launch.warm_shell import wait

signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until it waits
link, parent = socket.socketpair()
if not (job := os.fork()):
    os._exit(0)
os.waitpid(job, 0)
if not os.fork():  # the parent of jobs says how the job ended after signals have come too late
    for _ in range(50):
        time.sleep(0.01)
        os.kill(os.getppid(), signal.SIGHUP)
    parent.send(struct.pack("q", 5))
    os._exit(0)
sys.exit(wait(link, job))
"""


def test_a_signal_to_a_job_that_has_just_ended_does_not_fail_it() -> None:
    found = subprocess.run([sys.executable, "-c", ENDED], capture_output=True, text=True)
    assert (found.returncode, found.stderr) == (5, "")


@pytest.mark.parametrize("threads", [1, 2])
def test_without_a_parent_bash_starts_the_job(threads: int, jobs: Jobs, shell: Path) -> None:
    """There is none for two threads; the one for one thread is dead."""
    jobs.parent.kill()
    jobs.parent.wait()
    job = jobs.start(shell, ABOUT, threads)
    assert job.communicate("")[0].splitlines()[1] != str(jobs.parent.pid)
    assert job.returncode == 3


def test_other_commands_are_for_bash(shell: Path) -> None:
    run = subprocess.run("echo a; false | true; echo b", shell=True, executable=shell,
                         capture_output=True, text=True)  # fmt: skip
    assert (run.stdout, run.returncode) == ("a\n", 1)


def test_the_parent_ends_with_snakemake(jobs: Jobs) -> None:
    code = (
        "import os, signal; from pathlib import Path; from terse.launch import warm\n"
        "warm.warm_shell_of(Path.cwd(), [1]); print(warm._parents[0].pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=jobs.folder, capture_output=True)
    parent = int(run.stdout)
    wait_for(lambda: not psutil.pid_exists(parent), seconds=60)
    assert not psutil.pid_exists(parent)


@pytest.mark.parametrize(("executor", "gpu"), [("local", 1), ("slurm", 0)])
def test_jobs_elsewhere_or_on_gpus_start_as_usual(
    executor: str, gpu: int, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(jobs.folder)
    job = SimpleNamespace(threads=1, resources={"gpu": gpu})
    workflow = SimpleNamespace(
        dag=SimpleNamespace(needrun_jobs=lambda: [job]),
        executor_plugin=SimpleNamespace(name=executor),
    )
    warm.start_warm(workflow, None)
    assert not warm._parents


def test_it_can_be_switched_off(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(warm.OFF, "0")
    assert warm.warm_shell_of(jobs.folder, [1]) is None
