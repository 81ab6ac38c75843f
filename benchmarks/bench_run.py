"""A whole run at this commit against one at another, in turn: wall time, processor time, bytes.

Both run the other commit's default configuration, each with its own profiles/cpu, as `make run`
does; ours gives each training and evaluation one core, as today's default does. Only what is
committed runs.

python benchmarks/bench_run.py [--config tests/config/tiny.yaml] [--load] [--reference 23ed678]

Prints the seconds of each rule's jobs on both sides, and compares weights and tables. `--load`
keeps one busy process per core beside the run. `--imports` measures the scripts' imports instead.
"""

import argparse
import ctypes
import hashlib
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
from frame import report, row

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = "23ed678"  # the last one whose jobs each import everything themselves
BOUND = 0.51
ONE_CORE = ["--set-threads", "train_model=1", "evaluate_run=1"]
RESULTS = ("results/**/*.safetensors", "results/**/*.csv")
TIMED = {"history.csv"}  # holds the wall time of each step
SUBREAPER = 36  # of prctl: processes whose parent has ended become ours, so their time counts


@contextmanager
def checkout(commit: str) -> Iterator[Path]:
    """A work tree of a commit, removed at the end."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--detach", tree, commit], check=True, capture_output=True)
        try:
            yield tree
        finally:
            subprocess.run([*git, "remove", "--force", tree], check=True, capture_output=True)


@contextmanager
def busy(n_processes: int) -> Iterator[None]:
    """As many processes that compute all the time."""
    loops = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(n_processes)
    ]
    try:
        yield
    finally:
        for process in loops:
            process.kill()


def child_seconds() -> float:
    """Return the processor time of all descendants that have ended, after waiting for them."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run(
    tree: Path, folder: Path, configs: list[Path], more: Sequence[str] = ()
) -> tuple[float, float]:
    """Return wall and processor seconds of the workflow of a work tree in an empty folder."""
    default = tree / "config/config.yaml"  # the reference looks for it in the working folder
    words = ["--configfile", default, *configs, "--profile", tree / "profiles/cpu", *more]
    command = [sys.executable, "-m", "snakemake", "-s", tree / "Snakefile", "-d", folder, *words]
    environment = {**os.environ, "PYTHONPATH": str(tree / "src")}
    others = {child.pid for child in psutil.Process().children()}  # the busy ones
    before, start = child_seconds(), time.perf_counter()
    with (folder.parent / f"{folder.name}.log").open("w") as log:
        done = subprocess.run(command, env=environment, cwd=tree, stdout=log, stderr=log)
    if done.returncode:
        raise SystemExit("\n".join(Path(log.name).read_text().splitlines()[-20:]))
    wall = time.perf_counter() - start
    for child in psutil.Process().children():  # parents that end a moment after Snakemake
        if child.pid not in others:
            os.waitpid(child.pid, 0)
    return wall, child_seconds() - before


def rule_seconds(folder: Path) -> dict[str, tuple[int, float]]:
    """Return each rule's number of jobs and their wall seconds, from Snakemake's benchmarks."""
    count: Counter[str] = Counter()
    seconds: Counter[str] = Counter()
    for path in (folder / "logs").rglob("*.benchmark.tsv"):
        rule = path.relative_to(folder / "logs").parts[0].partition(".")[0]
        count[rule] += 1
        seconds[rule] += float(path.read_text().splitlines()[1].split("\t")[0])
    return {rule: (count[rule], seconds[rule]) for rule in sorted(count)}


def digests(folder: Path) -> dict[str, str]:
    """Return the digest of each file of weights and each table, except for those with times."""
    found = (path for pattern in RESULTS for path in folder.glob(pattern))
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in found
        if path.name not in TIMED
    }


def print_rules(ours: Path, reference: Path) -> None:
    """Print the seconds of each rule's jobs on both sides."""
    here, there = rule_seconds(ours), rule_seconds(reference)
    print(f"{'rule':24s} jobs  reference s  ours s")
    for rule, (jobs, seconds) in there.items():
        print(f"{rule:24s} {jobs:4d} {seconds:12.1f} {here.get(rule, (0, 0.0))[1]:7.1f}")


def compare_runs(tree: Path, configs: list[Path], folder: Path) -> list[dict]:
    """Return the rows of one run of each side; both have the reference's default configuration."""
    theirs = run(tree, folder / "reference", configs)
    with checkout("HEAD") as own:  # its own configuration would be merged into the other one
        shutil.copy(tree / "config/config.yaml", own / "config/config.yaml")
        ours = run(own, folder / "ours", configs, ONE_CORE)
    print_rules(folder / "ours", folder / "reference")
    one, other = digests(folder / "ours"), digests(folder / "reference")
    differing = [name for name in one.keys() | other.keys() if one.get(name) != other.get(name)]
    print(f"{len(one)} files of weights and tables, {len(differing)} differ: {differing}")
    return [
        row("wall time of the run, s", ours[0], theirs[0], bound=BOUND),
        row("processor time of the run, s", ours[1], theirs[1]),
        row("files that differ", len(differing), 0, ratio=len(differing), most=0),
    ]


def import_seconds(tree: Path, script: Path) -> float:
    """Return the processor time of a Python that imports a script, its start included."""
    before = child_seconds()
    code = f"import sys; sys.path.insert(0, {str(script.parent)!r}); import {script.stem}"
    environment = {**os.environ, "PYTHONPATH": str(tree / "src")}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    return child_seconds() - before


def compare_imports(tree: Path) -> list[dict]:
    """Return a row for each script of both sides."""
    places = [
        script.relative_to(ROOT) for script in sorted((ROOT / "workflow/scripts").glob("*.py"))
    ]
    return [
        row(f"{at.stem}, s", import_seconds(ROOT, ROOT / at), import_seconds(tree, tree / at))
        for at in places
        if (tree / at).exists()
    ]


def main() -> int:
    """Run both sides; return 1 if a bound does not hold."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--reference", default=REFERENCE, help="the other commit")
    parser.add_argument("--config", type=Path, nargs="*", default=[], help="overlays of it")
    parser.add_argument("--load", action="store_true", help="one busy process per core meanwhile")
    parser.add_argument("--imports", action="store_true", help="what the scripts import, no run")
    given = parser.parse_args()
    ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)
    with checkout(given.reference) as tree, tempfile.TemporaryDirectory() as folder:
        if given.imports:
            return report(compare_imports(tree), given.json)
        configs = [tree / path for path in given.config]  # today's may have keys unknown then
        if not given.load:
            return report(compare_runs(tree, configs, Path(folder)), given.json)
        with busy(os.cpu_count() or 1):
            return report(compare_runs(tree, configs, Path(folder)), given.json)


if __name__ == "__main__":
    sys.exit(main())
