"""Jobs that would wait in SLURM's queue indefinitely are cancelled with a message.

SLURM refuses them at submission only where a site enforces the limits of its partitions.
"""

import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

# A reason may appear briefly while nodes come up: it must persist at this many looks.
_LOOKS, _INTERVAL_S = 3, 10
_NODES = "no node of its partition has what it requests; change threads, mem_mb or gpu"
_ACCOUNT = "its partition does not accept its account; change slurm_account or slurm_partition"
_REASONS = {
    "BadConstraints": _NODES,
    "PartitionConfig": _NODES,
    "PartitionTimeLimit": "its partition allows less time; change runtime",
    "AccountNotAllowed": _ACCOUNT,
    "InvalidAccount": _ACCOUNT,
}


@dataclass(frozen=True)
class Hopeless:
    """A job that SLURM will never start as it is."""

    number: str
    name: str  # rule and wildcards
    reason: str  # SLURM's word

    def __str__(self) -> str:
        return (
            f"{self.name}: SLURM would leave job {self.number} in the queue indefinitely "
            f"({self.reason}): {_REASONS[self.reason]} under set-resources in the profile"
        )


def end_hopeless_jobs(folder: Path, tell: Callable[[str], None]) -> None:
    """Watch for such jobs of the workflow in `folder` as long as this process runs.

    Each is cancelled, so that it fails like a refused one, and reported through `tell`.
    """
    threading.Thread(target=_watch, args=(folder, tell), daemon=True).start()


def hopeless_jobs(queue: str, folder: Path) -> list[Hopeless]:
    """Return a folder's hopeless jobs from squeue's lines of "number|comment|folder|reason"."""
    rows = (line.split("|") for line in queue.splitlines())
    return [
        Hopeless(number, _name(comment), reason)
        for number, comment, where, reason in rows
        if where == str(folder) and reason in _REASONS
    ]


def _name(comment: str) -> str:
    rule, _, wildcards = comment.removeprefix("rule_").partition("_wildcards_")
    return f"{rule} {wildcards.replace('_', ' ')}"


def _watch(folder: Path, tell: Callable[[str], None]) -> None:
    looks: dict[Hopeless, int] = {}
    while True:
        time.sleep(_INTERVAL_S)
        looks = {job: looks.get(job, 0) + 1 for job in hopeless_jobs(_queue(), folder)}
        for job in (job for job, n in looks.items() if n >= _LOOKS):
            tell(str(job))
            subprocess.run(["scancel", job.number], capture_output=True)


def _queue() -> str:
    command = ["squeue", "--me", "--states=PENDING", "--noheader", "--format=%i|%k|%Z|%r"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""  # SLURM does not answer: look again later
