"""Publishing files and folders so that whatever has a final name is always complete."""

import ctypes
import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_PARTIAL = ".partial-"
_AT_FDCWD, _EXCHANGE = -100, 2  # of renameat2(2)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a name to write to in the folder of `path`; on success it becomes `path`.

    The bytes are on the disk before the name is. On an error nothing is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}{_PARTIAL}{os.getpid()}")
    try:
        yield partial
        sync(partial)
        partial.replace(path)
        sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a fresh folder next to `path`; on success it replaces `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}{_PARTIAL}{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        publish_folder(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def publish_folder(finished: Path, path: Path) -> None:
    """Rename a finished folder to `path` once all of it is on the disk, replacing an old one.

    At every instant one of the two has the name, where the file system can exchange names (all
    common ones on Linux do). Elsewhere the name is missing for an instant.
    """
    for item in sorted(finished.rglob("*")):
        sync(item)
    sync(finished)
    old = None
    if path.exists():
        old = finished
        if not _exchange(finished, path):
            old = path.with_name(f".{path.name}{_PARTIAL}old-{os.getpid()}")
            path.replace(old)
            finished.replace(path)
    else:
        finished.replace(path)
    sync(path.parent)
    if old is not None:
        shutil.rmtree(old)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names in one step; return False where this system or file system can't."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):  # not Linux, or a C library from before 2018
        return False
    here = ctypes.c_int(_AT_FDCWD)
    if rename(here, os.fsencode(one), here, os.fsencode(other), ctypes.c_uint(_EXCHANGE)) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number), str(one), None, str(other))


def remove_partials(folder: Path) -> None:
    """Remove what killed writers left in a folder that no process is writing to."""
    for item in folder.glob(f".*{_PARTIAL}*"):
        if item.is_dir():
            shutil.rmtree(item, ignore_errors=True)  # its writer may be deleting it, too
        else:
            item.unlink(missing_ok=True)


def remove_folder(folder: Path) -> None:
    """Remove a folder in one step for all readers: rename it, then delete it."""
    doomed = folder.with_name(f".{folder.name}{_PARTIAL}{os.getpid()}")
    folder.rename(doomed)
    shutil.rmtree(doomed)


def write_json(path: Path, content: Any) -> None:
    """Publish `content` as readable JSON."""
    with atomic_file(path) as partial:
        partial.write_text(json.dumps(content, indent=2, sort_keys=True, default=str) + "\n")


def sync(path: Path) -> None:
    """Return once the bytes of a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
