"""Whatever has a final name is always complete, however the writer ends."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from terse import artifacts
from terse.artifacts import (
    atomic_file,
    atomic_folder,
    publish_folder,
    remove_partials,
    write_json,
)

# Writes half of something new over `sys.argv[1]` and kills itself, as the machine might.
KILLED_IN_A_FILE = """
import os, signal, sys
from pathlib import Path
from terse.artifacts import atomic_file
with atomic_file(Path(sys.argv[1])) as partial:
    with partial.open("w") as file:
        file.write("half of the new")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
"""
KILLED_IN_A_FOLDER = """
import os, signal, sys
from pathlib import Path
from terse.artifacts import atomic_folder
with atomic_folder(Path(sys.argv[1])) as partial:
    (partial / "a").write_text("new")
    os.kill(os.getpid(), signal.SIGKILL)
"""
# Dies at the n-th call that touches the disk while a finished folder is published.
KILLED_WHILE_PUBLISHING = """
import os, signal, sys
from pathlib import Path
import terse.artifacts as artifacts

left = int(sys.argv[2])
def dying(function):
    def call(*words, **options):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*words, **options)
    return call

artifacts.sync = dying(artifacts.sync)
if sys.argv[3] == "exchange":
    artifacts._exchange = dying(artifacts._exchange)
else:
    artifacts._exchange = lambda one, other: False
    Path.replace = dying(Path.replace)
with artifacts.atomic_folder(Path(sys.argv[1])) as partial:
    (partial / "a").write_text("new")
    (partial / "b").write_text("new")
"""


def killed(code: str, *words: str) -> None:
    """Run code that has to end by its own SIGKILL."""
    run = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, timeout=60)
    assert run.returncode == -signal.SIGKILL, run.stderr.decode()


def contents(folder: Path) -> dict[str, str]:
    """Return the files of a folder by relative name."""
    return {str(f.relative_to(folder)): f.read_text() for f in folder.rglob("*") if f.is_file()}


def fill_the_disk(path: Path) -> None:
    """Write a part of something and fail."""
    path.write_text("half")
    raise OSError("disk full")


def test_a_file_is_there_once_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "table.csv"
    with atomic_file(path) as partial:
        partial.write_text("half")
        assert not path.exists()
        assert partial.parent == path.parent  # else the rename could cross a file system
    assert contents(tmp_path) == {"new/table.csv": "half"}


def test_an_exception_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(OSError, match="full"), atomic_file(path) as partial:
        fill_the_disk(partial)
    assert contents(tmp_path) == {"table.csv": "old"}


def test_an_exception_before_the_first_byte_is_the_one_that_is_raised(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="early"), atomic_file(tmp_path / "a"):
        raise RuntimeError("early")
    with pytest.raises(RuntimeError, match="early"), atomic_folder(tmp_path / "b"):
        raise RuntimeError("early")
    assert not list(tmp_path.iterdir())


def test_a_kill_leaves_the_old_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old")
    killed(KILLED_IN_A_FILE, str(path))
    assert path.read_text() == "old"
    (left,) = set(tmp_path.iterdir()) - {path}
    assert left.read_text() == "half of the new"
    remove_partials(tmp_path)
    assert contents(tmp_path) == {"table.csv": "old"}


def test_a_folder_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "model"
    (path / "sub").mkdir(parents=True)
    (path / "sub" / "old").write_text("old")
    with atomic_folder(path) as partial:
        (partial / "deep" / "er").mkdir(parents=True)
        (partial / "deep" / "er" / "a").write_text("new")
        assert (path / "sub" / "old").read_text() == "old"
    assert contents(tmp_path) == {"model/deep/er/a": "new"}


def test_an_exception_leaves_the_old_folder_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.mkdir()
    (path / "a").write_text("old")
    with pytest.raises(OSError, match="full"), atomic_folder(path) as partial:
        fill_the_disk(partial / "a")
    assert contents(tmp_path) == {"model/a": "old"}


def test_a_kill_leaves_the_old_folder_whole(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.mkdir()
    (path / "a").write_text("old")
    killed(KILLED_IN_A_FOLDER, str(path))
    assert contents(path) == {"a": "old"}
    assert len(list(tmp_path.iterdir())) == 2
    remove_partials(tmp_path)
    assert contents(tmp_path) == {"model/a": "old"}


OLD, NEW = {"a": "old", "b": "old"}, {"a": "new", "b": "new"}


# In order: three sync, the exchange, the sync of the parent; without it two renames in its place.
@pytest.mark.parametrize(
    ("how", "call", "expected"),
    [("exchange", n, OLD if n < 5 else NEW) for n in range(1, 6)]
    + [("rename", n, {5: {}, 6: NEW}.get(n, OLD)) for n in range(1, 7)],
)
def test_a_kill_while_a_folder_is_published_leaves_no_mixture(
    tmp_path: Path, how: str, call: int, expected: dict[str, str]
) -> None:
    path = tmp_path / "model"
    path.mkdir()
    (path / "a").write_text("old")
    (path / "b").write_text("old")
    killed(KILLED_WHILE_PUBLISHING, str(path), str(call), how)
    assert contents(path) == expected
    if not expected:  # between the renames there is nothing, rather than half of each
        assert not path.exists()


def test_a_reader_finds_a_whole_folder_at_every_instant(tmp_path: Path) -> None:
    path = tmp_path / "model"
    with atomic_folder(path) as partial:
        (partial / "a").write_text("0")
    published = threading.Event()
    failed: list[Exception] = []

    def read() -> None:
        while not published.is_set():
            try:
                folder = os.open(path, os.O_RDONLY)
                os.close(folder)
            except OSError as error:
                failed.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for i in range(100):
        with atomic_folder(path) as partial:
            (partial / "a").write_text(str(i))
    published.set()
    reader.join()
    assert not failed
    assert contents(tmp_path) == {"model/a": "99"}


def test_what_is_no_missing_ability_of_the_system_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="No such file"):
        artifacts._exchange(tmp_path / "a", tmp_path / "b")


def test_a_finished_folder_is_moved_not_copied(tmp_path: Path) -> None:
    finished = tmp_path / "finished"
    finished.mkdir()
    (finished / "a").write_text("x")
    inode = (finished / "a").stat().st_ino
    publish_folder(finished, tmp_path / "final")
    assert not finished.exists()
    assert (tmp_path / "final" / "a").stat().st_ino == inode


def test_remove_partials_touches_nothing_else(tmp_path: Path) -> None:
    kept = [".hidden", "a.partial-1", ".partial", "model"]
    for name in [*kept, ".a.partial-1", ".a.partial-old-1"]:
        (tmp_path / name).write_text("")
    (tmp_path / ".model.partial-2").mkdir()
    (tmp_path / ".model.partial-2" / "weights").write_text("")
    remove_partials(tmp_path)
    assert {item.name for item in tmp_path.iterdir()} == set(kept)


def test_json_is_readable_and_the_same_each_time(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    write_json(path, {"b": [1, None], "a": Path("x")})
    first = path.read_text()
    assert json.loads(first) == {"a": "x", "b": [1, None]}
    assert first.index('"a"') < first.index('"b"')
    assert first.endswith("}\n")
    write_json(path, {"a": Path("x"), "b": [1, None]})
    assert path.read_text() == first
    assert list(tmp_path.iterdir()) == [path]
