"""Why a longer training starts from step 0 although a shorter one is finished."""

import json
import logging
from pathlib import Path
from typing import Any

from terse.artifacts import write_json
from terse.provenance import digest_json
from terse.settings.run import Run

logger = logging.getLogger(__name__)

# Settings that say how long a training is and what is kept of it.
_LENGTH = {"max_steps", "epochs", "checkpoint_steps", "checkpoint_interval"}
_TO_ZERO = ("cosine", "linear", "cosine_with_min_lr")  # these fall until the last step


def note_finished(note: Path, run: dict[str, Any], n_steps: int) -> None:
    """Remember that a training with these settings finished after `n_steps`."""
    write_json(note, {"settings": _others(run), "steps": n_steps})


def why_from_the_start(note: Path, run: dict[str, Any], settings: Run) -> str | None:
    """Return why a finished shorter training is not extended; None if there was none."""
    if not note.is_file():
        return None
    finished = json.loads(note.read_text())
    steps = finished["steps"]
    if finished["settings"] != _others(run) or steps >= settings.n_steps:
        return None
    schedule = getattr(settings, "lr_schedule", "constant")
    if schedule in _TO_ZERO:
        why = f"lr_schedule {schedule} had brought the rate down by its last step"
    else:
        why = (
            "its optimiser was deleted when its weights were published; to train these further, "
            "make them the base of another run"
        )
    return (
        f"starts from step 0: the finished training of {steps} steps is not extended to "
        f"{settings.n_steps}, since {why}"
    )


def explain_start(note: Path, state: Path, run: dict[str, Any], settings: Run) -> None:
    """Log why a longer training starts from step 0, unless it resumes from its own state."""
    why = None if state.exists() else why_from_the_start(note, run, settings)
    if why is not None:
        logger.info(why)


def _others(run: dict[str, Any]) -> str:
    return digest_json({key: value for key, value in run.items() if key not in _LENGTH})
