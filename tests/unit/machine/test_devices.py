"""Two jobs never get the same GPU; a job that dies gives its own back."""

import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest

from terse.errors import TerseError
from terse.machine import devices as lease

# Takes GPUs, says which, and holds them until its stdin is closed.
HOLDER = """
import logging, os, sys
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
from terse.errors import TerseError
from terse.machine.devices import lease_devices
try:
    taken = lease_devices(int(sys.argv[1]), poll_s=0.02)
    print(",".join(taken), os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
except TerseError as error:
    print("error", error, flush=True)
sys.stdin.read()
"""
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The environment of a machine with two GPUs and its own locks."""
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nprintf '0\\n1\\n'\n")
    program.chmod(0o755)
    (tmp_path / "tmp").mkdir()
    hidden = {"CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID"}
    kept = {key: value for key, value in os.environ.items() if key not in hidden}
    path = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
    return {**kept, "PATH": path, "TMPDIR": str(tmp_path / "tmp")}


@pytest.fixture
def start(environment: dict[str, str]) -> Iterator[Start]:
    """Return a function that starts a job which requests `count` GPUs."""
    running: list[subprocess.Popen[str]] = []

    def begin(count: int, **more: str) -> subprocess.Popen[str]:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        words = [sys.executable, "-c", HOLDER, str(count)]
        job = subprocess.Popen(words, env={**environment, **more}, text=True, **pipes)
        running.append(job)
        return job

    yield begin
    for job in running:
        job.kill()
        job.communicate()


def line(stream: IO[str] | None) -> str:
    """Return the next line that a job writes, which comes soon."""
    assert stream is not None
    ready, _, _ = select.select([stream], [], [], 30)
    assert ready, "the job says nothing"
    return stream.readline().strip()


def said(job: subprocess.Popen[str]) -> str:
    """Return the line in which a job says what it got."""
    return line(job.stdout)


def test_jobs_get_different_gpus_and_a_third_waits_for_a_dead_holder(start: Start) -> None:
    first, second = start(1), start(1)
    given = [said(first), said(second)]
    assert set(given) == {"0 0", "1 1"}
    third = start(1)
    assert line(third.stderr) == "waiting for 1 of 2 GPUs that other jobs hold"
    time.sleep(0.2)  # several polls
    assert third.poll() is None
    first.kill()
    assert said(third) == given[0]
    assert second.poll() is None


def test_a_job_may_take_several_at_once(start: Start) -> None:
    both = start(2)
    assert said(both) == "0,1 0,1"
    waiting = start(2)
    assert "waiting for 2 of 2" in line(waiting.stderr)
    both.kill()
    assert said(waiting) == "0,1 0,1"


def test_a_job_that_waits_for_two_holds_none_meanwhile(start: Start) -> None:
    one = start(1)
    assert said(one) == "0 0"
    pair = start(2)
    assert "waiting for 2 of 2" in line(pair.stderr)
    assert said(start(1)) == "1 1"
    assert pair.poll() is None


def test_more_than_the_machine_has_is_an_error(start: Start) -> None:
    assert said(start(3)) == "error 3 GPU(s) promised to this job, 2 on this machine"


def test_no_driver_is_an_error(start: Start, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    found = said(start(1, PATH=str(tmp_path / "empty")))
    assert found == "error 1 GPU(s) promised to this job, 0 on this machine"


def test_devices_hidden_beforehand_stay_hidden(start: Start) -> None:
    assert said(start(1, CUDA_VISIBLE_DEVICES="1")) == "1 1"
    waiting = start(1, CUDA_VISIBLE_DEVICES="1")
    assert "waiting for 1 of 1" in line(waiting.stderr)
    assert said(start(2, CUDA_VISIBLE_DEVICES="1")).startswith("error 2 GPU(s) promised")
    assert said(start(1, CUDA_VISIBLE_DEVICES="")).startswith("error 1 GPU(s) promised")
    assert said(start(1, CUDA_VISIBLE_DEVICES="7")).startswith("error 1 GPU(s) promised")


def test_devices_named_otherwise_are_taken_by_their_names(start: Start) -> None:
    visible = {"CUDA_VISIBLE_DEVICES": "GPU-8f6f, GPU-11aa"}
    taken = {said(start(1, **visible)), said(start(1, **visible))}
    assert taken == {"GPU-8f6f GPU-8f6f", "GPU-11aa GPU-11aa"}


def test_the_jobs_of_a_group_share_out_what_slurm_gave_it(start: Start) -> None:
    """SLURM takes a group for one job: each part of it sees the devices of all."""
    group = {"SLURM_JOB_ID": "17", "CUDA_VISIBLE_DEVICES": "0,1"}
    first, second = start(1, **group), start(1, **group)
    assert {said(first), said(second)} == {"0 0", "1 1"}
    third = start(1, **group)
    assert "waiting for 1 of 2" in line(third.stderr)
    assert said(start(1, **group | {"SLURM_JOB_ID": "18"})) == "0 0"  # another job's devices
    first.kill()
    assert said(third) in {"0 0", "1 1"}


@pytest.fixture
def in_slurm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """A SLURM job on a machine whose driver is not asked."""
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("PATH", str(tmp_path))
    return monkeypatch


def test_under_slurm_the_scheduler_has_chosen(in_slurm: pytest.MonkeyPatch) -> None:
    in_slurm.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert lease.lease_devices(2) == ["2", "5"]
    assert lease.lease_devices(2) == ["2", "5"]  # no lock is taken
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "2,5"


@pytest.mark.parametrize(("visible", "given"), [("2", 1), ("", 0), (None, 0)])
def test_slurm_that_gave_too_few_is_an_error(
    in_slurm: pytest.MonkeyPatch, visible: str | None, given: int
) -> None:
    if visible is None:
        in_slurm.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        in_slurm.setenv("CUDA_VISIBLE_DEVICES", visible)
    sentence = rf"2 GPU\(s\) promised to this job, SLURM gave {given}; check gpu and the partition"
    with pytest.raises(TerseError, match=sentence):
        lease.lease_devices(2)
