"""What a flat file of semantic blotching sets although its run would not read it."""

from typing import Any

from terse.corpora.named import NAMED
from terse.importer.overlay import Overlay
from terse.models.blotching.settings import ARCHITECTURE, ENVIRONMENT, OF_INTENSITY, OF_TABLES


def leave_out_unread(overlay: Overlay, run: dict[str, Any], sweep: dict[str, Any]) -> None:
    """Take keys away that the run's arm, data or positions have no use for, with a note for each.

    A dataset that is neither on the hub nor a named corpus stands for the arithmetic problems.
    """
    corpus = run.get("corpus")
    if isinstance(corpus, str) and corpus not in NAMED and _is_no_hub_path(overlay, corpus):
        del run["corpus"]
        overlay.config.pop("corpora", None)
        overlay.notes["dataset"] = "left out: the arithmetic problems are the run's own"
    solves = "corpus" not in run and "corpus" not in sweep
    if solves:
        _drop(overlay, run, sweep, {"base", "tokenizer"}, "arithmetic has characters of its own")
        overlay.config.pop("models", None)
    else:
        _drop(overlay, run, sweep, ENVIRONMENT, "it is of the arithmetic problems")
        if "base" in run or "base" in sweep:
            _drop(overlay, run, sweep, ARCHITECTURE, "it is the base's")
    if run.get("blotch_p") is not None:
        _drop(overlay, run, sweep, OF_INTENSITY, "a constant blotch_p has no intensities")
    if run.get("posenc_type", "Rotary").startswith("Rotary") and "posenc_type" not in sweep:
        _drop(overlay, run, sweep, OF_TABLES, "rotary positions have no table")


def _is_no_hub_path(overlay: Overlay, corpus: str) -> bool:
    entry = overlay.config.get("corpora", {}).get(corpus, {})
    return "/" not in str(entry.get("path", ""))


def _drop(
    overlay: Overlay, run: dict[str, Any], sweep: dict[str, Any], keys: set[str], why: str
) -> None:
    for key in sorted(keys & (run.keys() | sweep.keys())):
        run.pop(key, None)
        sweep.pop(key, None)
        overlay.notes[key] = f"left out: {why}"
