"""What an interrupted training needs to go on, outside the outputs that Snakemake deletes."""

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


class TrainingState:
    """The folder `state/train/{run}/{digest}`: saved states of the Trainer and kept weights.

    The digest names all that decides the result, so other settings have another folder. A context
    manager: inside, this process is the one that may write. Of several processes that train
    together the first claims the folder; the others write where it tells them.
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
        """Whether another process, for which this one waited, has finished the training."""
        return self._claim is not None and self._claim.outlived_a_finisher

    @property
    def kept(self) -> Path:
        """The folder of the weights that are kept, `step-{n}` each."""
        return self.folder / "kept"

    @contextmanager
    def saving(self, name: str) -> Iterator[Path]:
        """Yield a folder to write to; it is published under `name` when it is whole and ours."""
        with atomic_folder(self.folder / name) as partial:
            yield partial
            sizes = {str(f.relative_to(partial)): f.stat().st_size for f in _files(partial)}
            write_json(partial / _MANIFEST, sizes)
            self._owner.check()

    def latest(self) -> Path | None:
        """Return the newest whole checkpoint; a damaged one is passed over with a warning."""
        for step in sorted(self._steps(), reverse=True):
            checkpoint = self.folder / f"checkpoint-{step}"
            if _is_whole(checkpoint):
                return checkpoint
            logger.warning("%s is damaged and passed over", checkpoint)
        return None

    def prune(self, keep: int = 2) -> None:
        """Delete all but the newest checkpoints."""
        for step in sorted(self._steps())[:-keep]:
            shutil.rmtree(self.folder / f"checkpoint-{step}")

    def publish(self, name: str, output: Path) -> None:
        """Copy a folder of the state to its final place, atomically."""
        self._owner.check()
        with atomic_folder(output) as partial:
            shutil.copytree(
                self.folder / name, partial, dirs_exist_ok=True,
                ignore=shutil.ignore_patterns(_MANIFEST),
            )  # fmt: skip

    def delete(self) -> None:
        """Forget the training: its outputs are published."""
        self._owner.forget()

    def _steps(self) -> list[int]:
        names = (re.fullmatch(r"checkpoint-(\d+)", f.name) for f in self.folder.iterdir())
        return [int(match[1]) for match in names if match]


def _files(folder: Path) -> list[Path]:
    return [f for f in sorted(folder.rglob("*")) if f.is_file()]


def _is_whole(checkpoint: Path) -> bool:
    """Say whether each file of a checkpoint is there with the size it was written with."""
    try:
        sizes = json.loads((checkpoint / _MANIFEST).read_text())
        return all((checkpoint / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False
