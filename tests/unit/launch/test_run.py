"""`terse run` with the real Snakemake: one workflow at a time in a folder, also after a kill."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from terse.launch.run import _name_files, sized
from terse.launch.runner import note_runner

# The first rule takes its time while the file `slow` is there.
SNAKEFILE = """
rule all:
    default_target: True
    input:
        "b.txt",

rule a:
    output:
        "a.txt",
    shell:
        "echo $$ > started; while [ -e slow ]; do sleep 0.05; done; echo a > {output}"

rule b:
    input:
        "a.txt",
    output:
        "b.txt",
    shell:
        "cat {input} > {output}; mkdir -p results/figures/f results/tables; "
        "touch results/figures/f/id.svg results/tables/runs.csv"
"""
RUN = [sys.executable, "-m", "snakemake", "--cores", "1", "--quiet", "all"]
TERSE = """
import sys
from terse.cli import main
sys.exit(main(["run", "b.txt", "--cores", "1", "--quiet", "all", *sys.argv[1:]]))
"""
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a workflow of two rules, of which the first waits."""
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    (tmp_path / "slow").touch()
    return tmp_path


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    """Return a function that starts a command in the folder; what is left is killed."""
    running: list[subprocess.Popen[str]] = []

    def begin(*words: str) -> subprocess.Popen[str]:
        command = list(words) if words and words[0] == sys.executable else [
            sys.executable, "-c", TERSE, *words
        ]  # fmt: skip
        process = subprocess.Popen(
            command, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "HOME": str(folder)},
        )  # fmt: skip
        running.append(process)
        return process

    yield begin
    (folder / "slow").unlink(missing_ok=True)
    for process in running:
        if process.poll() is None:
            kill_tree(process.pid)
        process.wait()


def kill_tree(pid: int) -> None:
    """Kill a process and its children, as a power cut would."""
    parent = psutil.Process(pid)
    for process in [parent, *parent.children(recursive=True)]:
        process.kill()


def wait_for(path: Path) -> None:
    """Wait until a file is there and not empty."""
    end = time.monotonic() + 60
    while not (path.exists() and path.read_text().strip()):
        assert time.monotonic() < end, f"{path} does not come"
        time.sleep(0.02)


def finished(process: subprocess.Popen[str]) -> str:
    """Return all that a process printed until it ended with success."""
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 0, output
    return output


@pytest.mark.slow
def test_a_second_run_waits_for_the_first_and_says_so(folder: Path, start: Start) -> None:
    first = start()
    wait_for(folder / "started")
    second = start()
    assert second.stdout is not None
    assert (
        second.stdout.readline() == f"terse: process {first.pid} runs the workflow here; waiting\n"
    )
    time.sleep(0.3)
    assert second.poll() is None
    (folder / "slow").unlink()
    output = finished(first)
    assert (folder / "b.txt").read_text() == "a\n"
    opened = output.partition("Open:\n")[2].split()
    assert opened == ["results/report.html", "results/figures/f/id.svg", "results/tables/runs.csv"]
    assert all((folder / name).exists() for name in opened)
    made = (folder / "a.txt").stat().st_mtime_ns
    assert "Open:" in finished(second)
    assert (folder / "a.txt").stat().st_mtime_ns == made  # there was nothing left to do


@pytest.mark.slow
def test_a_lock_that_a_killed_run_left_is_removed(folder: Path, start: Start) -> None:
    first = start()
    wait_for(folder / "started")
    kill_tree(first.pid)
    first.communicate()
    assert any((folder / ".snakemake" / "locks").iterdir())
    (folder / "slow").unlink()
    output = finished(start("--rerun-incomplete"))
    assert "terse: an earlier run was interrupted; resuming" in output
    assert (folder / "b.txt").read_text() == "a\n"


def test_a_living_snakemake_is_named_and_left_alone(folder: Path, start: Start) -> None:
    other = start(*RUN)
    wait_for(folder / "started")
    refused = start()
    output, _ = refused.communicate(timeout=60)
    assert refused.returncode == 1
    named = re.search(r"a snakemake \(process (\d+)\) runs in this folder; wait for it", output)
    assert named is not None, output
    family = {other.pid, *(child.pid for child in psutil.Process(other.pid).children(True))}
    assert int(named[1]) in family
    assert any((folder / ".snakemake" / "locks").iterdir())
    (folder / "slow").unlink()
    finished(other)
    assert (folder / "b.txt").exists()


@pytest.mark.slow
def test_a_snakemake_sent_here_from_elsewhere_is_left_alone(folder: Path, start: Start) -> None:
    command = [sys.executable, "-u", "-m", "snakemake", "-c1", "--directory", str(folder)]
    command += ["--snakefile", str(folder / "Snakefile")]
    with (folder / "other.log").open("wb") as log:
        other = subprocess.Popen(command, cwd="/", stdout=log, stderr=log)
    wait_for(folder / "started")
    output, _ = start().communicate(timeout=60)
    assert "runs in this folder; wait for it" in output
    (folder / "slow").unlink()
    assert other.wait(timeout=100) == 0, (folder / "other.log").read_text()


@pytest.mark.slow
def test_a_lock_from_another_host_is_not_removed(folder: Path, start: Start) -> None:
    first = start()
    wait_for(folder / "started")
    kill_tree(first.pid)
    first.communicate()
    note = folder / ".snakemake" / "terse-running.json"
    note.write_text('{"host": "login2", "pid": 77}')
    refused = start()
    output, _ = refused.communicate(timeout=60)
    assert refused.returncode == 1
    assert "terse: process 77 on login2 locked this folder" in output
    assert any((folder / ".snakemake" / "locks").iterdir())
    note_runner(folder)  # ours: stale, since it is no Snakemake
    (folder / "slow").unlink()
    assert "an earlier run was interrupted; resuming" in finished(start("--rerun-incomplete"))


@pytest.mark.parametrize("words", [["--configfile", "c.yaml"], ["--configfiles", "c.yaml"]])
def test_a_config_file_that_is_no_yaml_is_one_line(
    folder: Path, start: Start, words: list[str]
) -> None:
    (folder / "c.yaml").write_text("runs:\n  base: [1, 2\nmodels: {}\n")
    process = start(*words)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert re.fullmatch(r"terse: c\.yaml:3:7: invalid YAML: .*\n", output), output
    assert not (folder / ".snakemake").exists()


def test_a_config_file_that_is_missing_is_one_line(folder: Path, start: Start) -> None:
    process = start("--configfile", "missing.yaml")
    output, _ = process.communicate(timeout=60)
    assert (process.returncode, output) == (1, "terse: missing.yaml: No such file or directory\n")


def test_a_failing_workflow_names_no_files_and_fails(folder: Path, start: Start) -> None:
    (folder / "Snakefile").write_text(SNAKEFILE.replace("echo $$ > started;", "exit 3;"))
    process = start()
    output, _ = process.communicate(timeout=60)
    assert process.returncode not in (0, None)
    assert "Open:" not in output


def test_a_dry_run_names_no_files(folder: Path, start: Start) -> None:
    (folder / "results").mkdir()
    (folder / "results" / "report.html").touch()  # of an earlier run
    assert "Open:" not in finished(start("-n"))


def test_the_files_to_open(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["results/report.html", "results/frontier/docs/frontier.svg", "results/figures/f/a.svg"]
    for name in [*names, "results/frontier/docs/frontier.pdf"]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    _name_files(folder)
    assert capsys.readouterr().out.split() == ["Open:", *names]


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_is_its_own_and_runs_nothing(folder: Path, start: Start, option: str) -> None:
    output = finished(start(option))
    assert output.startswith("usage: terse run [arguments for snakemake]\n")
    assert not (folder / ".snakemake").exists()
    assert not (folder / ".terse.lock").exists()


def test_an_interrupt_ends_the_run_as_snakemake_does(folder: Path) -> None:
    """A Ctrl-C goes to the whole group of a terminal."""
    command = [sys.executable, "-c", TERSE]
    process = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True, env={**os.environ, "HOME": str(folder)},
    )  # fmt: skip
    wait_for(folder / "started")
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "Traceback" not in output
    assert not list((folder / ".snakemake").glob("locks/*"))


@pytest.mark.parametrize("words", [[], ["-n"], ["--cores", "1", "b.txt"], ["b.txt", "-n"]])
def test_every_word_after_run_is_snakemakes(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from terse import cli

    given: list[list[str]] = []
    monkeypatch.setattr(cli, "run_workflow", lambda _folder, rest: given.append(rest) or 0)
    assert cli.main(["run", *words]) == 0
    assert given == [words]


@pytest.mark.parametrize(
    ("words", "added"),
    [
        ([], True),
        (["--configfile", "my.yaml"], True),
        (["-n"], True),
        (["--cores", "2", "x"], False),
        (["-c2"], False),
        (["-j", "4"], False),
        (["--profile=profiles/gpu"], False),
        (["--configfile", "-c.yaml", "--jobs", "3"], False),
    ],
)
def test_the_profile_of_this_machine_is_used_unless_a_size_is_given(
    words: list[str], added: bool
) -> None:
    profile = ["--profile", "profiles/cpu"]
    assert sized(words) == (profile + words if added else words)
