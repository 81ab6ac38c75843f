"""What an importer returns: a configuration, and a note for each key that moved elsewhere."""

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from terse.config.messages import lines
from terse.config.methods import methods
from terse.config.sweeps import expand_sweeps
from terse.errors import TerseError


@dataclass
class Overlay:
    """A configuration for --configfile, and notes on it.

    notes: where a key's meaning moved to. unknown: keys without a counterpart. questions: what a
    file leaves open, and how to answer it. roots: the folders that it names, {root: (key, folder)}.
    """

    source: str
    config: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    unknown: dict[str, str] = field(default_factory=dict)
    questions: list[str] = field(default_factory=list)
    roots: dict[str, tuple[str, str]] = field(default_factory=dict)

    def place_roots(self, *, asked: bool) -> None:
        """Note each folder of the file; `asked`: move the workflow's roots there.

        They would move everything that the workflow has and makes, not this run alone.
        """
        for root, (key, folder) in self.roots.items():
            if asked:
                self.config.setdefault("roots", {})[root] = folder
                self.notes[key] = f"roots.{root}"
            else:
                self.notes[key] = (
                    f"not used; --roots sets roots.{root}, of the whole workflow, to it"
                )

    def text(self) -> str:
        """Return the overlay as YAML, preceded by the notes as comments."""
        head = [f"# From {self.source}; use it with --configfile. Keys: config/README.md"]
        head += [f"# {key}: {note}" for key, note in self.notes.items()]
        head += [f"# {key}: NOT IMPORTED, {why}" for key, why in self.unknown.items()]
        head += [f"# {question}" for question in self.questions]
        body = yaml.safe_dump(self.config, sort_keys=False, default_flow_style=None, width=100)
        return "\n".join(head) + "\n" + body

    def check_runs(self) -> None:
        """Raise TerseError with all faults on one line if a run would be invalid."""
        from pydantic import ValidationError

        runs, _ = expand_sweeps(self.config["runs"])
        wrong: list[str] = []
        for name, run in runs.items():
            try:
                methods()[run["method"]].settings.model_validate(run)
            except ValidationError as error:
                wrong += lines(error, (name,))
        if wrong:
            raise TerseError("; ".join(dict.fromkeys(wrong)))


def name_of(text: str) -> str:
    """Return a text as a name that may be part of a path."""
    name = re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.")[:40].strip("-.")
    if not name:
        raise TerseError(f"{text!r} contains nothing that could be a name (a-z, 0-9)")
    return name
