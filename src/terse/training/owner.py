"""Who may write the state of a training: one process at a time, whatever else still lives."""

import fcntl
import json
import logging
import os
import socket
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path

from terse.artifacts import write_json
from terse.errors import TerseError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Token:
    """A claim on a state folder; a later claim has a higher counter."""

    host: str
    pid: int
    job: str | None
    counter: int


class Owner:
    """The holder of a state folder.

    A claim waits for a living holder on this host and refuses to take over from a SLURM job that
    still runs. A holder that was taken over finds out at its next `check` and ends.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "owner.json"
        # A lock in the folder itself would be lost with it; the kernel drops it with the process.
        self._lock = os.open(folder / "owner.lock", os.O_CREAT | os.O_RDWR, 0o600)
        self._wait_for_lock()
        previous = self._read()
        if previous is not None:
            _refuse_running_job(previous)
        self._token = Token(
            host=socket.gethostname(),
            pid=os.getpid(),
            job=os.environ.get("SLURM_JOB_ID"),
            counter=previous.counter + 1 if previous else 1,
        )
        write_json(self._path, asdict(self._token))

    def check(self) -> None:
        """Raise TerseError if another process has taken over."""
        now = self._read()
        if now != self._token:
            who = f"job {now.job or now.pid} on {now.host}" if now else "nobody: the state is gone"
            raise TerseError(f"this training was taken over ({who}); nothing more is written here")

    def release(self) -> None:
        """Give the folder up."""
        os.close(self._lock)

    def _wait_for_lock(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = self._read()
            logger.info(
                "waiting for process %s, which still trains this run", holder and holder.pid
            )
            fcntl.flock(self._lock, fcntl.LOCK_EX)

    def _read(self) -> Token | None:
        try:
            return Token(**json.loads(self._path.read_text()))
        except FileNotFoundError:
            return None


def _refuse_running_job(previous: Token) -> None:
    """Raise TerseError where the scheduler says that the previous holder's job still runs."""
    if previous.job is None or previous.job == os.environ.get("SLURM_JOB_ID"):
        return
    try:
        answer = subprocess.run(
            ["squeue", "--noheader", "--format=%T", "--jobs", previous.job],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return
    states = answer.stdout.split()
    if answer.returncode == 0 and states and states[0] in {"RUNNING", "COMPLETING", "SUSPENDED"}:
        raise TerseError(
            f"SLURM job {previous.job} on {previous.host} still trains this run ({states[0]}); "
            "wait for it or scancel it, then start again"
        )
