"""`terse run`: one workflow at a time in a folder; run it again after a kill and it resumes."""

import argparse
import fcntl
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from terse.config import read_yaml
from terse.errors import TerseError
from terse.hub.unreachable import FOLDER as NOTES
from terse.hub.unreachable import NOTED, forget_notes, read_notes
from terse.launch.runner import runner_of

REPORT = "results/report.html"
_KEEP_GOING = {"-k", "--keep-going"}
_DRY_RUN = {"-n", "--dry-run", "--dryrun"}
_HELP = {"-h", "--help"}
_USAGE = """usage: terse run [arguments for snakemake]

Runs the workflow of this folder with its report, with profiles/cpu unless a profile or a number of
cores is given, and names the files to open. For instance:

  terse run --configfile my.yaml -- results/ids/my-model.csv
  terse run -n

All arguments: snakemake --help"""
_SIZES = {"-c", "--cores", "-j", "--jobs", "--profile", "--executor", "-e"}


def run_workflow(folder: Path, words: list[str]) -> int:
    """Run Snakemake in `folder` with its report, and name the files to open.

    If a model can't be fetched without a network, everything that doesn't need it is made; the
    model and the reason are printed at the end, and the status is that of the rest.
    Waits for another run of this command in the folder. Removes Snakemake's own lock if no
    Snakemake is running here, as after a kill. Returns Snakemake's exit status.
    Raises TerseError if a Snakemake that was not started by this command runs in the folder.
    """
    if _HELP & set(words):
        print(_USAGE)
        return 0
    _check_config_files(words)
    with _alone(folder):
        _remove_stale_lock(folder)
        report = ["--report", REPORT, "--report-after-run"]
        if _DRY_RUN & set(words):
            report = []  # Snakemake would write it in a dry run, too
        words = sized(words)
        command, going_on = [*_snakemake(), *report], _going_on(words)
        notes = folder / NOTES
        try:
            forget_notes(notes)
            status = subprocess.run([*command, *going_on, *words], cwd=folder).returncode
            missing = read_notes(notes) if status != 0 else {}
            if missing:
                print(f"terse: making what does not need {', '.join(missing)}", flush=True)
                left_out = {**os.environ, NOTED: "1"}
                status = subprocess.run([*command, *words], cwd=folder, env=left_out).returncode
        except KeyboardInterrupt:
            return 130  # Snakemake got the same signal and has ended
    if status == 0 and not _DRY_RUN & set(words):
        _name_files(folder)
    for model, reason in missing.items():
        print(f"terse: left out: model {model}: {reason}")
    return status


def sized(words: list[str]) -> list[str]:
    """Return Snakemake's arguments with this machine's profile, unless they say how much to run."""
    options = [word.partition("=")[0] for word in words if word.startswith("-")]
    is_sized = _SIZES & set(options) or any(re.fullmatch(r"-[cj]\d+", o) for o in options)
    return words if is_sized else ["--profile", "profiles/cpu", *words]


def _going_on(words: list[str]) -> list[str]:
    """Return the option that keeps independent jobs running after a failure, unless given."""
    return [] if _KEEP_GOING & set(words) else ["--keep-going"]


def _check_config_files(words: list[str]) -> None:
    """Raise TerseError with the position at which a file after `--configfile` is invalid YAML."""
    reading = False
    for word in words:
        option, _, value = word.partition("=")
        if word.startswith("-"):
            reading = option in {"--configfile", "--configfiles"}
            if reading and value:
                read_yaml(value)
        elif reading:
            read_yaml(word)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    with (folder / ".terse.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            print(f"terse: process {lock.read()} runs the workflow here; waiting", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def _snakemake() -> list[str]:
    return [sys.executable, "-m", "snakemake"]


def _remove_stale_lock(folder: Path) -> None:
    locks = folder / ".snakemake" / "locks"
    if not locks.is_dir() or not any(locks.iterdir()):
        return
    runner = runner_of(folder)
    if runner is not None and not runner.is_here:
        raise TerseError(
            f"process {runner.pid} on {runner.host} locked this folder; wait for it; if it has "
            "ended, run snakemake --unlock and start again"
        )
    if (pid := _living_snakemake(folder)) is not None:
        raise TerseError(f"a snakemake (process {pid}) runs in this folder; wait for it to end")
    print("terse: an earlier run was interrupted; resuming", flush=True)
    subprocess.run([*_snakemake(), "--unlock", "--quiet", "all"], cwd=folder, check=True)


def _living_snakemake(folder: Path) -> int | None:
    """Return the process id of a Snakemake that runs in the folder, None if there is none."""
    for process in psutil.process_iter(["pid", "cmdline", "cwd"]):
        words, cwd = process.info["cmdline"] or [], process.info["cwd"]
        programs = (word for word in words[:5] if not word.startswith("-"))
        is_snakemake = any(Path(word).name == "snakemake" for word in programs)
        if is_snakemake and cwd and _works_in(words, Path(cwd)) == folder.resolve():
            return process.pid
    return None


def _works_in(words: list[str], cwd: Path) -> Path:
    """Return the folder that a Snakemake's command line makes it work in."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--directory", "-d", default=".")
    return (cwd / parser.parse_known_args(words)[0].directory).resolve()


def rule_graph(folder: Path) -> str:
    """Return the graph of the rules that `all` needs, as Mermaid text with the rules' names."""
    command = [*_snakemake(), "--rulegraph", "mermaid-js", "all"]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if run.returncode != 0:
        raise TerseError(f"snakemake --rulegraph failed: {run.stderr.strip().splitlines()[-1]}")
    names = dict(re.findall(r"(id\d+)\[(\w+)\]", run.stdout))
    arrows = re.findall(r"(id\d+) --> (id\d+)", run.stdout)
    lines = sorted(f"    {names[start]} --> {names[end]}" for start, end in arrows)
    return "\n".join(["flowchart LR", *lines, ""])


def _name_files(folder: Path) -> None:
    found = [path for path in [folder / REPORT] if path.exists()]  # no report of single targets
    found += sorted((folder / "results" / "frontier").glob("*/frontier.svg"))
    found += sorted((folder / "results" / "figures").glob("*/*.svg"))
    found += sorted((folder / "results" / "studies").glob("*/*.svg"))
    found += sorted((folder / "results" / "tables").glob("*.csv"))
    if found:
        print("\nOpen:")
    for path in found:
        print(f"  {path.relative_to(folder)}")
