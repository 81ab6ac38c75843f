"""What can't be fetched without a network: noted, so that the rest of a run succeeds."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from terse.artifacts import write_json
from terse.errors import TerseError

FOLDER = Path("state/unreachable")
# In the environment: the workflow leaves out the models that have a note.
NOTED = "TERSE_LEAVE_OUT_NOTED"


class UnreachableError(TerseError):
    """A source that does not answer, or does not have what is requested."""


@contextmanager
def noted(model: str, folder: Path = FOLDER) -> Iterator[None]:
    """Leave a note with the reason if a model's source is unreachable; remove it on success."""
    note = folder / f"{model}.json"
    try:
        yield
    except UnreachableError as error:
        write_json(note, {"model": model, "reason": " ".join(str(error).split())})
        raise
    note.unlink(missing_ok=True)


def read_notes(folder: Path = FOLDER) -> dict[str, str]:
    """Return why each model that has a note could not be fetched."""
    notes = (json.loads(path.read_text()) for path in sorted(folder.glob("*.json")))
    return {note["model"]: note["reason"] for note in notes}


def forget_notes(folder: Path = FOLDER) -> None:
    """Remove all notes: the next downloads note again what is unreachable."""
    for path in folder.glob("*.json"):
        path.unlink()
