"""The map of keys in a file of another system, whatever its format."""

import dataclasses
import json
import runpy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from terse.config.load import read_yaml
from terse.errors import TerseError

# The names under which the systems' Python files define their settings.
VARIABLES = ("exp_config", "default_config")
SUFFIXES = (".json", ".py", ".yaml", ".yml")


def read(path: Path) -> dict[str, Any]:
    """Return the settings in a file; a Python file is run, as its own trainer does.

    Raises TerseError if it can't be read, fails, or holds no map.
    """
    if not path.is_file():
        raise TerseError(f"{path}: no such file")
    if path.suffix == ".py":
        return _python(path)
    if path.suffix == ".json":
        return _json(path)
    if path.suffix in SUFFIXES:
        return read_yaml(path)
    raise TerseError(
        f"{path}: cannot import a {path.suffix or 'nameless'} file; allowed: {', '.join(SUFFIXES)}"
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise TerseError(f"{path}: invalid JSON: {error}") from error
    if not isinstance(content, dict):
        raise TerseError(f"{path}: must be a map of keys")
    return content


def _python(path: Path) -> dict[str, Any]:
    try:
        with _importable(path):
            names = runpy.run_path(str(path))
    except Exception as error:
        raise TerseError(f"{path}: it does not run: {type(error).__name__}: {error}") from error
    found = next((names[name] for name in VARIABLES if name in names), None)
    if dataclasses.is_dataclass(found) and not isinstance(found, type):
        found = dataclasses.asdict(found)
    if not isinstance(found, dict):
        raise TerseError(f"{path}: it has no {' or '.join(VARIABLES)} that is a map or a dataclass")
    return dict(found)


@contextmanager
def _importable(path: Path) -> Iterator[None]:
    """Let the file import its neighbours, as `configs.base_config` or `base_config`."""
    before, known = list(sys.path), set(sys.modules)
    sys.path[:0] = [str(path.resolve().parent), str(path.resolve().parent.parent)]
    try:
        yield
    finally:
        sys.path[:] = before
        for module in set(sys.modules) - known:  # another file's neighbours have the same names
            origin = getattr(sys.modules[module], "__file__", None) or ""
            if origin.startswith(str(path.resolve().parent.parent)):
                del sys.modules[module]
