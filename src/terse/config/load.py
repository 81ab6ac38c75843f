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

_LIBRARIES = {"corpora", "tokenizers", "runs", "models", "frontier"}


def load(raw: dict[str, Any]) -> Workflow:
    """Return the checked configuration.

    Raises TerseError with one line for each fault.
    """
    if not isinstance(raw, dict):
        raise TerseError(f"config: must be a map of keys; given: {raw!r}")
    methods()  # a broken one is reported first, whether or not a run uses it
    raw, sweeps = _without_none({**raw, "corpora": _with_named(raw.get("corpora"))}), {}
    if isinstance(raw.get("runs"), dict):
        raw["runs"], sweeps = expand_sweeps(raw["runs"])
    try:
        return Workflow.model_validate(raw, context={"sweeps": sweeps})
    except ValidationError as error:
        raise TerseError("\n".join(lines(error))) from None


def put_in_order(merged: dict[str, Any], own: str) -> None:
    """Put the keys of a merged configuration into the order of the files, the `own` file first.

    Snakemake reads `--configfile` before the workflow's own file, and merges it once more after
    that: the values are right, but the keys of an overlay precede. Their order tells an old name,
    or a sweep, of an overlay from the key that it replaces.
    """
    if Path(own).exists():
        ordered = _in_order(merged, read_yaml(own))
        merged.clear()
        merged.update(ordered)


def _in_order(merged: Any, below: Any) -> Any:
    if not (isinstance(merged, dict) and isinstance(below, dict)):
        return merged
    keys = [*(key for key in below if key in merged), *(key for key in merged if key not in below)]
    return {key: _in_order(merged[key], below.get(key)) for key in keys}


def _with_named(corpora: Any) -> Any:
    """Return the corpora of a configuration plus the named ones that it does not redefine."""
    return {**NAMED, **corpora} if isinstance(corpora, dict) else corpora or NAMED


def _without_none(raw: dict[str, Any]) -> dict[str, Any]:
    """Return the top level without empty blocks, and libraries without entries set to null.

    So a later file can remove what an earlier one defines.
    """
    found = {key: value for key, value in raw.items() if value is not None}
    for library in _LIBRARIES & found.keys():
        if isinstance(found[library], dict):
            found[library] = {k: v for k, v in found[library].items() if v is not None}
    return found


def checked_yaml(path: str) -> str:
    """Return the path of a configuration file, or exit with its first fault."""
    try:
        if Path(path).exists():
            read_yaml(path)
    except TerseError as error:
        end_with(error)
    return path


def end_with(error: TerseError) -> NoReturn:
    """Print an error of the configuration, one line for each fault, and exit."""
    for line in str(error).splitlines():
        print(f"config error: {line}", file=sys.stderr)
    sys.exit(1)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Return the map in a YAML file.

    Raises TerseError with the file, line and column if it is not valid YAML or not a map.
    """
    try:
        with Path(path).open(encoding="utf-8") as file:
            content = yaml.safe_load(file)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "invalid YAML"
        raise TerseError(f"{path}{place}: invalid YAML: {problem}") from None
    except UnicodeDecodeError as error:
        raise TerseError(f"{path}: invalid YAML: not UTF-8 at byte {error.start}") from None
    except OSError as error:
        raise TerseError(f"{path}: {error.strerror}") from None
    if not isinstance(content, dict):
        raise TerseError(f"{path}: must be a map of keys")
    return content
