"""The real workflow on the cluster of the tests, by the profile that users have."""

import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

from tiny_workflow import ROOT, Workflow, wait_for

PROFILE = ROOT / "profiles" / "slurm"
SITE = Path(__file__).with_name("site")


@dataclass(frozen=True)
class Seen:
    """A script of a job that was seen at work, with what SLURM gave it."""

    script: str
    job: str
    node: str
    devices: str | None  # CUDA_VISIBLE_DEVICES


class SlurmWorkflow(Workflow):
    """The workflow with its results in `folder`, its jobs on the cluster."""

    def __init__(self, folder: Path, *overlays: Path, profile: Path = PROFILE) -> None:
        super().__init__(folder, *overlays)
        self.profile = profile
        self.sights: list[set[Seen]] = []
        # For the workflow's processes, jobs among them.
        os.environ["PYTHONPATH"] = str(SITE)

    def command(self, *words: str) -> list[str]:
        polls = ["--slurm-init-seconds-before-status-checks", "1", "--latency-wait", "10"]
        return super().command("--profile", str(self.profile), *polls, *words)

    def changed(self, config: dict[str, Any], **profile: Any) -> "SlurmWorkflow":
        """Return the workflow with one overlay more, and keys of its profile replaced."""
        number = len(list(self.folder.glob("overlay-*.yaml")))
        overlay = self.folder / f"overlay-{number}.yaml"
        overlay.write_text(yaml.safe_dump(config))
        folder = self.folder / f"profile-{number}"
        folder.mkdir()
        settings = yaml.safe_load((self.profile / "config.yaml").read_text())
        for rule, resources in profile.pop("resources", {}).items():
            settings["set-resources"].setdefault(rule, {}).update(resources)
        (folder / "config.yaml").write_text(yaml.safe_dump(settings | profile))
        return SlurmWorkflow(self.folder, *self.overlays[1:], overlay, profile=folder)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Note, several times a second, which scripts are at work where."""
        done = threading.Event()

        def watch() -> None:
            while not done.wait(0.2):
                if seen := self.at_work():
                    self.sights.append({one for one, _ in seen})

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()

    def at_work(self) -> list[tuple[Seen, psutil.Process]]:
        """Return the scripts of this workflow's jobs that are at work now, and their processes."""
        found = []
        for process in psutil.process_iter(["cmdline", "cwd"]):
            words = process.info["cmdline"] or [""]
            if process.info["cwd"] != str(self.folder) or not words[-1].endswith(".py"):
                continue
            with suppress(psutil.Error):
                environment = process.environ()
                seen = Seen(
                    script=words[-1].split(".")[-2],
                    job=environment.get("SLURM_JOB_ID", ""),
                    node=environment.get("SLURMD_NODENAME", ""),
                    devices=environment.get("CUDA_VISIBLE_DEVICES"),
                )
                found.append((seen, process))
        return [(seen, process) for seen, process in found if seen.job]

    def jobs(self, *states: str) -> dict[str, str]:
        """Return rule and wildcards of each job of this workflow in these states -> its number."""
        wanted = ["--states", ",".join(states or ("RUNNING",))]
        lines = subprocess.run(
            ["squeue", "--noheader", "--format=%i|%k|%Z", *wanted],
            capture_output=True, text=True, check=True,
        ).stdout.splitlines()  # fmt: skip
        rows = (line.split("|") for line in lines)
        return {
            comment.removeprefix("rule_").replace("_wildcards_", " "): number
            for number, comment, folder in rows
            if folder == str(self.folder)
        }

    def submitted(self) -> dict[str, str]:
        """Return rule and wildcards of each job that SLURM has taken lately -> its number."""
        return self.jobs("all")

    def states(self, *numbers: str) -> dict[str, str]:
        """Return the state of each of these jobs, by its number."""
        command = ["squeue", "--noheader", "--format=%i %T", "--states=all", "--jobs"]
        answer = subprocess.run([*command, ",".join(numbers)], capture_output=True, text=True)
        return dict(line.split() for line in answer.stdout.splitlines())

    def process(self, job: str) -> psutil.Process | None:
        """Return the script of a job by its rule and wildcards, None where it is not at work."""
        number = self.jobs().get(job)
        for seen, process in self.at_work():
            if seen.job == number:
                return process
        return None

    def log(self, job: str) -> str:
        """Return the log of a job by its rule and wildcards."""
        rule, name = job.split()
        path = self.folder / "logs" / rule / f"{name.replace('_', '.')}.log"
        return path.read_text() if path.exists() else ""


def wait_for_job(workflow: SlurmWorkflow, job: str) -> psutil.Process:
    """Return the script of a job by its rule and wildcards, once it is at work."""
    found: list[psutil.Process | None] = []
    wait_for(lambda: found.append(workflow.process(job)) or found[-1] is not None)
    assert found[-1] is not None
    return found[-1]


def pending_signals(process: psutil.Process) -> int:
    """Return the mask of the signals that wait for a stopped process."""
    with suppress(OSError):
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("ShdPnd")).split()[1], 16)
    return 0


def ended(process: psutil.Process, *, seconds: float = 120) -> bool:
    """Wait for a process that is not ours; return whether it ended in time."""
    end = time.monotonic() + seconds
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True
