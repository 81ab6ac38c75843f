"""Publishing files and folders so that what stands under a final name is always whole."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_PARTIAL = ".partial-"


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a name to write to in the folder of `path`; on success it becomes `path`.

    The bytes are on the disk before the name is. On an error nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}{_PARTIAL}{os.getpid()}")
    try:
        yield partial
        _sync(partial)
        partial.replace(path)
        _sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a fresh folder beside `path`; on success it takes the place of `path`."""
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
    """Rename a finished folder to `path` once all of it is on the disk; an old one gives way."""
    for item in sorted(finished.rglob("*")):
        _sync(item)
    _sync(finished)
    if path.exists():
        old = path.with_name(f".{path.name}{_PARTIAL}old-{os.getpid()}")
        path.replace(old)
        finished.replace(path)
        shutil.rmtree(old)
    else:
        finished.replace(path)
    _sync(path.parent)


def remove_partials(folder: Path) -> None:
    """Remove what killed writers left in a folder that has no living writer."""
    for item in folder.glob(f".*{_PARTIAL}*"):
        shutil.rmtree(item) if item.is_dir() else item.unlink()


def write_json(path: Path, content: Any) -> None:
    """Publish `content` as readable JSON."""
    with atomic_file(path) as partial:
        partial.write_text(json.dumps(content, indent=2, sort_keys=True, default=str) + "\n")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
