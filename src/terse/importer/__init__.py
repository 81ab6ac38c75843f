"""`terse import FILE`: a configuration in another system's format, as an overlay for this workflow.

A format is a module with `SUFFIXES` and `convert(path) -> Overlay`, and a line in `FORMATS`.
"""

from pathlib import Path
from types import ModuleType

from terse.errors import TerseError
from terse.importer import exp_config, hyperparameters
from terse.importer.overlay import Overlay

FORMATS: tuple[ModuleType, ...] = (hyperparameters, exp_config)


def import_file(path: Path) -> Overlay:
    """Return the overlay that corresponds to a file of another system.

    Raises TerseError for a file of no known format, or whose values make no valid run.
    """
    if not path.is_file():
        raise TerseError(f"{path}: no such file")
    for format_ in FORMATS:
        if path.suffix in format_.SUFFIXES:
            return format_.convert(path)
    allowed = ", ".join(sorted({suffix for format_ in FORMATS for suffix in format_.SUFFIXES}))
    raise TerseError(
        f"{path}: cannot import a {path.suffix or 'nameless'} file; allowed: {allowed}"
    )
