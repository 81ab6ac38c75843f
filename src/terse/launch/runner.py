"""Which process runs the workflow of a folder; the Snakefile notes it while it runs."""

import json
import os
import socket
from dataclasses import asdict, dataclass
from pathlib import Path

from terse.artifacts import write_json

_NOTE = Path(".snakemake") / "terse-running.json"


@dataclass(frozen=True)
class Runner:
    """A Snakemake process: the name of its host and its process id there."""

    host: str
    pid: int

    @property
    def is_here(self) -> bool:
        return self.host == socket.gethostname()


def note_runner(folder: Path) -> None:
    """Note that this process runs the workflow of a folder."""
    write_json(folder / _NOTE, asdict(Runner(socket.gethostname(), os.getpid())))


def forget_runner(folder: Path) -> None:
    """Remove the note: the workflow has ended."""
    (folder / _NOTE).unlink(missing_ok=True)


def runner_of(folder: Path) -> Runner | None:
    """Return the process that ran the workflow last and did not end properly, None if none."""
    try:
        return Runner(**json.loads((folder / _NOTE).read_text()))
    except FileNotFoundError:
        return None
