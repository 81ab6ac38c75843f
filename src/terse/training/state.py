"""What an interrupted training needs to resume, kept outside the outputs that Snakemake deletes."""

import json
import logging
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from terse.artifacts import atomic_folder, remove_partials, write_json
from terse.machine.owner import Owner

logger = logging.getLogger(__name__)

_MANIFEST = "terse-files.json"
_THREADS = "threads.json"


class TrainingState:
    """The folder `state/train/{run}/{digest}`: saved states of the Trainer and kept weights.

    The digest covers everything that determines the result, so other settings use another folder.
    As a context manager it makes this process the only writer. Of several processes that train
    together, the first claims the folder and tells the others where to write.
    """

    def __init__(self, folder: Path, *, leads: bool = True) -> None:
        self.folder = folder
        self._claim = Owner(folder, f"the training of {folder.parent.name}") if leads else None
        if leads:
            self._clean()

    def _clean(self) -> None:
        remove_partials(self.folder.parent)
        remove_partials(self.folder)
        remove_partials(self.kept)

    def __enter__(self) -> "TrainingState":
        return self

    def __exit__(self, *error: object) -> None:
        if self._claim is not None:
            self._claim.__exit__(*error)

    @property
    def _owner(self) -> Owner:
        if self._claim is None:
            raise RuntimeError("only the first of several processes publishes")
        return self._claim

    @property
    def was_finished_meanwhile(self) -> bool:
        """Whether the process that this one waited for has finished the training."""
        return self._claim is not None and self._claim.outlived_a_finisher

    @property
    def kept(self) -> Path:
        """The folder of the kept weights, in subfolders `step-{n}`."""
        return self.folder / "kept"

    @contextmanager
    def saving(self, name: str) -> Iterator[Path]:
        """Yield a folder, published as `name` once complete if this process still owns it."""
        with atomic_folder(self.folder / name) as partial:
            yield partial
            sizes = {str(f.relative_to(partial)): f.stat().st_size for f in _files(partial)}
            write_json(partial / _MANIFEST, sizes)
            self._owner.check()

    def latest(self) -> Path | None:
        """Return the newest complete checkpoint; damaged ones are skipped with a warning."""
        for step in sorted(self._steps(), reverse=True):
            checkpoint = self.folder / f"checkpoint-{step}"
            if _is_whole(checkpoint):
                return checkpoint
            logger.warning("%s is damaged: skipped", checkpoint)
        return None

    def prune(self, keep: int = 2) -> None:
        """Delete all but the newest checkpoints."""
        for step in sorted(self._steps())[:-keep]:
            shutil.rmtree(self.folder / f"checkpoint-{step}")

    def note_threads(self, n: int, *, resumed: bool) -> list[int]:
        """Note that n threads work on the training now; return all numbers so far, in order."""
        path = self.folder / _THREADS
        before = json.loads(path.read_text()) if resumed and path.exists() else []
        threads = before if before[-1:] == [n] else [*before, n]
        write_json(path, threads)
        return threads

    def publish(self, name: str, output: Path) -> None:
        """Copy a folder of the state to its final place, atomically."""
        self._owner.check()
        with atomic_folder(output) as partial:
            shutil.copytree(
                self.folder / name, partial, dirs_exist_ok=True,
                ignore=shutil.ignore_patterns(_MANIFEST),
            )  # fmt: skip

    def delete(self) -> None:
        """Delete the state of a training whose outputs are published."""
        self._owner.forget()

    def _steps(self) -> list[int]:
        names = (re.fullmatch(r"checkpoint-(\d+)", f.name) for f in self.folder.iterdir())
        return [int(match[1]) for match in names if match]


def _files(folder: Path) -> list[Path]:
    return [f for f in sorted(folder.rglob("*")) if f.is_file()]


def _is_whole(checkpoint: Path) -> bool:
    """Return whether every file of a checkpoint exists with the size it was written with."""
    try:
        sizes = json.loads((checkpoint / _MANIFEST).read_text())
        return all((checkpoint / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False
