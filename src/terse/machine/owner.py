"""Who may write a training's state or a shard: one process at a time, whatever else is running."""

import errno
import fcntl
import json
import logging
import os
import socket
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path

from terse.artifacts import remove_folder, write_json
from terse.errors import TerseError

logger = logging.getLogger(__name__)

# In any other state, no process of the job writes any more.
_LIVING = {
    "RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT",
    "RESIZING",
}  # fmt: skip

# Errors of a file system without locks, such as a Lustre mounted without `flock`.
_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK}


@dataclass(frozen=True)
class Token:
    """A claim on a folder; a later claim has a higher counter."""

    host: str
    pid: int
    job: str | None
    counter: int


class Owner:
    """The holder of a folder, in which it writes its claim; a context manager.

    A claim does not take over from a SLURM job that is still running, and waits for a running
    holder on this host. A holder that was taken over (because its node was declared down, say)
    finds out at its next `check` and ends.

    Raises TerseError if the previous holder's job is running, or SLURM can't be asked about it.
    """

    def __init__(self, folder: Path, what: str) -> None:
        self._folder, self._what = folder, what
        self._path = folder / "owner.json"
        self._outlived = False
        self._lock = self._locked()
        previous = self._read()
        self._refuse_running_job(previous)
        self._token = Token(
            host=socket.gethostname(),
            pid=os.getpid(),
            job=os.environ.get("SLURM_JOB_ID"),
            counter=previous.counter + 1 if previous else 1,
        )
        write_json(self._path, asdict(self._token))

    def __enter__(self) -> "Owner":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._lock)

    def check(self) -> None:
        """Raise TerseError if another process has taken over."""
        now = self._read()
        if now != self._token:
            who = f"{_name(now)} on {now.host}" if now else "nobody: its folder is gone"
            raise TerseError(f"{self._what} was taken over ({who}); nothing more is written here")

    @property
    def outlived_a_finisher(self) -> bool:
        """Whether another holder, for which this one waited, has finished the work."""
        return self._outlived

    def forget(self) -> None:
        """Delete the folder: the work is published."""
        self.check()
        remove_folder(self._folder)  # in one step: a new claim may be made at any time

    def _locked(self) -> int:
        """Lock the folder, once no running process holds it; return the lock's descriptor."""
        while True:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._refuse_running_job(self._read())
            # The kernel drops the lock with the process, however it ends.
            lock = os.open(self._folder / "owner.lock", os.O_CREAT | os.O_RDWR, 0o600)
            self._wait_for(lock)
            if self._is_in_place(lock):
                return lock
            os.close(lock)
            self._outlived = True  # the holder has deleted the folder: its work is published

    def _wait_for(self, lock: int) -> None:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = self._read()
            process = f"process {holder.pid}" if holder else "a process"
            logger.info("waiting for %s, which still writes %s", process, self._what)
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            logger.warning(
                "the file system of %s has no locks: only SLURM and %s show who writes",
                self._folder, self._path.name,
            )  # fmt: skip

    def _is_in_place(self, lock: int) -> bool:
        try:
            return os.path.samestat(os.fstat(lock), (self._folder / "owner.lock").stat())
        except FileNotFoundError:
            return False

    def _read(self) -> Token | None:
        try:
            return Token(**json.loads(self._path.read_text()))
        except FileNotFoundError:
            return None

    def _refuse_running_job(self, holder: Token | None) -> None:
        if holder is None or holder.job is None or holder.job == os.environ.get("SLURM_JOB_ID"):
            return
        if (state := self._state_of(holder.job)) in _LIVING:
            raise TerseError(
                f"SLURM job {holder.job} on {holder.host} still writes {self._what} ({state}); "
                f"wait for it or end it (scancel {holder.job}), then start again"
            )

    def _state_of(self, job: str) -> str | None:
        """Return the state of a job, None if SLURM has forgotten it."""
        try:
            answer = subprocess.run(
                ["squeue", "--noheader", "--states=all", "--format=%T", "--jobs", job],
                capture_output=True, text=True, timeout=60,
            )  # fmt: skip
            complaint = answer.stderr.strip()
        except (OSError, subprocess.TimeoutExpired) as error:
            answer, complaint = None, str(error)
        if answer is not None and answer.returncode == 0:
            return next(iter(answer.stdout.split()), None)
        if "Invalid job id" in complaint:
            return None
        raise TerseError(
            f"squeue can't say whether job {job} still writes {self._what} ({complaint}); start "
            f"again where SLURM answers, or delete {self._path} if that job has ended"
        )


def _name(token: Token) -> str:
    return f"process {token.pid}" if token.job is None else f"job {token.job}"
