"""Two processes that want the same work: real ones, and what each of them may still write."""

import errno
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from terse.activations.layout import Dataset
from terse.activations.writer import ShardWriter
from terse.errors import TerseError
from terse.machine.owner import Owner

# Holds the folder argv[1] until a line comes in; then says whether it is still the owner's.
HOLDER = """
import sys
from pathlib import Path
from terse.errors import TerseError
from terse.machine.owner import Owner
{before}
with Owner(Path(sys.argv[1]), "the work") as owner:
    print("holds", flush=True)
    sys.stdin.readline()
    try:
        {then}
        print("ours", flush=True)
    except TerseError as error:
        print(error, flush=True)
"""
# As on a file system whose locks hold within one host only.
NO_LOCKS = "import fcntl; fcntl.flock = lambda *_: None"

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Return a function that starts a holder and waits until it holds its folder."""
    started: list[subprocess.Popen[str]] = []

    def begin(
        folder: Path, *, before: str = "", then: str = "owner.check()", **more: str
    ) -> subprocess.Popen[str]:
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLDER.format(before=before, then=then), str(folder)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **more},
        )  # fmt: skip
        started.append(holder)
        assert holder.stdout is not None
        assert holder.stdout.readline() == "holds\n"
        return holder

    yield begin
    for holder in started:
        holder.kill()
        holder.communicate()


def squeue(folder: Path, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a `squeue` with this shell body before all others."""
    folder.mkdir()
    (folder / "squeue").write_text(f"#!/bin/sh\n{body}\n")
    (folder / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


def test_a_living_holder_is_waited_for(tmp_path: Path, start: Start) -> None:
    first = start(tmp_path / "w")
    second = subprocess.Popen(
        [sys.executable, "-c", HOLDER.format(before="", then="pass"), str(tmp_path / "w")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert select.select([second.stdout], [], [], 1.5)[0] == []  # it says nothing yet
    assert first.communicate("go on\n")[0] == "ours\n"
    assert second.communicate("go on\n", timeout=30)[0] == "holds\nours\n"


def test_a_killed_holder_is_taken_over_at_once(tmp_path: Path, start: Start) -> None:
    first = start(tmp_path / "w")
    first.send_signal(signal.SIGKILL)
    first.wait()
    with Owner(tmp_path / "w", "the work") as owner:
        owner.check()
        assert json.loads((tmp_path / "w" / "owner.json").read_text())["counter"] == 2


def test_a_holder_that_deletes_the_folder_leaves_a_new_one_to_the_next(
    tmp_path: Path, start: Start
) -> None:
    first = start(tmp_path / "w", then="import time; time.sleep(1); owner.forget()")
    first.stdin.write("go on\n")  # type: ignore[union-attr]
    first.stdin.flush()  # type: ignore[union-attr]
    with Owner(tmp_path / "w", "the work") as owner:
        assert first.wait() == 0
        owner.check()
        assert json.loads((tmp_path / "w" / "owner.json").read_text())["counter"] == 1


def test_who_was_taken_over_writes_nothing_more(tmp_path: Path, start: Start) -> None:
    """Without locks between them, as on two hosts."""
    first = start(tmp_path / "w", before=NO_LOCKS)
    second = start(tmp_path / "w", before=NO_LOCKS)
    assert "the work was taken over (process" in first.communicate("go on\n")[0]
    assert second.communicate("go on\n")[0] == "ours\n"


def test_a_file_system_without_locks_leaves_the_counter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", refuse)
    with Owner(tmp_path / "w", "the work") as first:
        first.check()
        assert "has no locks" in caplog.text
        with Owner(tmp_path / "w", "the work") as second:
            second.check()
            with pytest.raises(TerseError, match="the work was taken over"):
                first.check()


@pytest.mark.parametrize("state", ["RUNNING", "COMPLETING", "SUSPENDED"])
def test_a_running_job_is_named_and_left_alone(
    state: str, tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = start(tmp_path / "w", SLURM_JOB_ID="17")
    squeue(tmp_path / "bin", f"echo {state}", monkeypatch)
    with pytest.raises(TerseError, match=rf"job 17 on \S+ still writes the work \({state}\)"):
        Owner(tmp_path / "w", "the work")
    assert first.communicate("go on\n")[0] == "ours\n"


@pytest.mark.parametrize(
    "answer", ["echo NODE_FAIL", "true", "echo slurm_load_jobs error: Invalid job id >&2; exit 1"]
)
def test_a_job_that_has_ended_is_taken_over(
    answer: str, tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = start(tmp_path / "w", SLURM_JOB_ID="17", before=NO_LOCKS)
    squeue(tmp_path / "bin", answer, monkeypatch)
    with Owner(tmp_path / "w", "the work") as owner:
        assert "was taken over" in first.communicate("go on\n")[0]
        owner.check()


@pytest.mark.parametrize("answer", ["echo Unable to contact slurm controller >&2; exit 1", None])
def test_a_scheduler_that_does_not_answer_is_no_leave_to_take_over(
    answer: str | None, tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = start(tmp_path / "w", SLURM_JOB_ID="17", before=NO_LOCKS)
    if answer is None:
        monkeypatch.setenv("PATH", str(tmp_path))
    else:
        squeue(tmp_path / "bin", answer, monkeypatch)
    with pytest.raises(
        TerseError, match=r"squeue can't say whether job 17 still .* delete \S+json"
    ):
        Owner(tmp_path / "w", "the work")
    assert first.communicate("go on\n")[0] == "ours\n"


def shard(path: Path, owner: Owner) -> ShardWriter:
    rows = {"id": ["a"] * 4}
    data = [Dataset("x", (2,), "float32")]
    return ShardWriter(path, data, 4, attributes={}, rows=rows, confirm=owner.check)


def test_a_shard_that_was_taken_over_is_the_new_writers_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old writer continues in a file without a name, and publishes nothing."""
    monkeypatch.setattr("fcntl.flock", lambda *_: None)
    path = tmp_path / "shard-00000.h5"
    with Owner(tmp_path / "w", "shard 0") as old, shard(path, old) as old_writer:
        old_writer.put("x", 0, np.zeros((2, 2), np.float32))
        with Owner(tmp_path / "w", "shard 0") as new, shard(path, new) as new_writer:
            new_writer.put("x", 0, np.ones((4, 2), np.float32))
            old_writer.put("x", 2, np.zeros((2, 2), np.float32))
            with pytest.raises(TerseError, match="shard 0 was taken over"):
                old_writer.publish()
            new_writer.publish()
    with h5py.File(path) as file:
        assert file.attrs["complete"]
        assert (file["x"][:] == 1).all()  # type: ignore[index]
    assert not list(tmp_path.glob(".*"))
