"""`terse import FILE`: a configuration of another system, as an overlay for this workflow.

A format is a module with `fits(given)`, whether the map of a file is one of it, and
`convert(given, source, load_base_from) -> Overlay`, and a place in `FORMATS`.
"""

from pathlib import Path
from types import ModuleType

from terse.errors import TerseError
from terse.importer import exp_config, hyperparameters, id_scaling
from terse.importer.overlay import Overlay
from terse.importer.reading import read

FORMATS: tuple[ModuleType, ...] = (id_scaling, exp_config, hyperparameters)


def import_file(path: Path, *, roots: bool = False, load_base_from: str | None = None) -> Overlay:
    """Return the overlay that corresponds to a file of another system.

    roots: also move the workflow's roots to the folders that the file names. load_base_from: the
    run of this workflow whose weights the file's second stage starts from.
    Raises TerseError for a file of no known format, or whose values make no valid run.
    """
    given = read(path)
    format_ = next((one for one in FORMATS if one.fits(given)), None)
    if format_ is None:
        raise TerseError(f"{path}: its keys fit none of the five systems; is it flat?")
    if load_base_from is not None and format_ is not exp_config:
        raise TerseError(f"{path}: --load-base-from is for an exp_config of two stages")
    overlay: Overlay = format_.convert(given, path, load_base_from)
    overlay.place_roots(asked=roots)
    return overlay
