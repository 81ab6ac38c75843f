"""The real Snakemake in its own folder."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
TINY = ROOT / "tests" / "config" / "tiny.yaml"


class Workflow:
    """The workflow with its results in `folder`."""

    def __init__(self, folder: Path, *overlays: Path) -> None:
        self.folder = folder
        self.overlays = [ROOT / "config" / "config.yaml", *overlays]

    def command(self, *words: str) -> list[str]:
        """Return the command line of `snakemake words` here."""
        return [
            sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"),
            "--directory", str(self.folder), "--configfile", *map(str, self.overlays),
            "--workflow-profile", str(ROOT / "profiles" / "default"), *words,
        ]  # fmt: skip

    def __call__(self, *words: str, check: bool = True, **environment: str) -> str:
        """Run `snakemake words` and return what it prints."""
        run = subprocess.run(
            self.command(*words), cwd=ROOT, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, env={**os.environ, **environment}, timeout=900,
        )  # fmt: skip
        assert not check or run.returncode == 0, run.stdout
        return run.stdout

    def plan(self, *words: str) -> dict[str, int]:
        """Return how many jobs of each rule a dry run plans."""
        return planned(self("-n", *words))

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        """Start `snakemake words` in its own process group."""
        with (self.folder / "started.log").open("ab") as log:
            return subprocess.Popen(
                self.command(*words), cwd=ROOT, stdout=log, stderr=log, start_new_session=True
            )

    def weights(self) -> dict[str, bytes]:
        """Return the bytes of all published weights, by name."""
        runs = self.folder / "results" / "runs"
        return {str(f.relative_to(runs)): f.read_bytes() for f in runs.rglob("*.safetensors")}

    def tables(self) -> dict[str, bytes]:
        """Return the bytes of all tables of dimensions, by name."""
        return {f.name: f.read_bytes() for f in (self.folder / "results/ids").glob("*.csv")}


def planned(text: str) -> dict[str, int]:
    """Return how many jobs of each rule the output of a dry run names."""
    lines = text.splitlines()
    if "Job stats:" not in lines:
        return {}
    rows = (line.split() for line in lines[lines.index("Job stats:") + 3 :])
    counts: dict[str, int] = {}
    for row in rows:
        if len(row) != 2 or row[0] == "total":
            break
        counts[row[0]] = int(row[1])
    return counts


def kill_all(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL a started workflow and all its children."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def wait_for(what: Callable[[], object], *, seconds: float = 240) -> None:
    """Wait until something is the case."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)
