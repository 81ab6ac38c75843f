"""From the raw configuration that Snakemake merged to the typed one."""

import sys
from pathlib import Path
from typing import Any, NoReturn

import yaml
from pydantic import ValidationError

from terse.config.messages import lines
from terse.config.methods import methods
from terse.config.sweeps import expand_sweeps
from terse.config.workflow import Workflow
from terse.corpora.named import NAMED
from terse.errors import TerseError

_LIBRARIES = {"corpora", "tokenizers", "runs", "models"}


def load(raw: dict[str, Any]) -> Workflow:
    """Return the checked configuration.

    Raises TerseError, one line for each thing that is wrong.
    """
    if not isinstance(raw, dict):
        raise TerseError(f"config: a map of keys is needed; given: {raw!r}")
    methods()  # a broken one is told first, whether or not a run is of it
    raw, sweeps = _without_none({**raw, "corpora": _with_named(raw.get("corpora"))}), {}
    if isinstance(raw.get("runs"), dict):
        raw["runs"], sweeps = expand_sweeps(raw["runs"])
    try:
        return Workflow.model_validate(raw, context={"sweeps": sweeps})
    except ValidationError as error:
        raise TerseError("\n".join(lines(error))) from None


def _with_named(corpora: Any) -> Any:
    """Return the corpora of a configuration, and the well-known ones that it does not define."""
    return {**NAMED, **corpora} if isinstance(corpora, dict) else corpora or NAMED


def _without_none(raw: dict[str, Any]) -> dict[str, Any]:
    """Return the top level without empty blocks, and libraries without things set to null.

    So a later file can take away what an earlier one defines.
    """
    found = {key: value for key, value in raw.items() if value is not None}
    for library in _LIBRARIES & found.keys():
        if isinstance(found[library], dict):
            found[library] = {k: v for k, v in found[library].items() if v is not None}
    return found


def checked_yaml(path: str) -> str:
    """Return the path of a configuration file, or end the program with what is wrong in it."""
    try:
        if Path(path).exists():
            read_yaml(path)
    except TerseError as error:
        end_with(error)
    return path


def end_with(error: TerseError) -> NoReturn:
    """Print an error of the configuration, one line for each thing that is wrong, and exit."""
    for line in str(error).splitlines():
        print(f"config error: {line}", file=sys.stderr)
    sys.exit(1)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Return the map in a YAML file.

    Raises TerseError with the file, line and column where it is not valid YAML or no map.
    """
    try:
        with Path(path).open(encoding="utf-8") as file:
            content = yaml.safe_load(file)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "no valid YAML"
        raise TerseError(f"{path}{place}: no valid YAML: {problem}") from None
    except UnicodeDecodeError as error:
        raise TerseError(f"{path}: no valid YAML: not UTF-8 at byte {error.start}") from None
    except OSError as error:
        raise TerseError(f"{path}: {error.strerror}") from None
    if not isinstance(content, dict):
        raise TerseError(f"{path}: a map of keys is needed")
    return content
