"""A run with `sweep:` is expanded into one run per combination of its listed values."""

import hashlib
import itertools
import logging
import re
from typing import Any

from terse.errors import TerseError

logger = logging.getLogger(__name__)

Raw = dict[str, Any]
LONGEST = 40  # characters of a name


def expand_sweeps(runs: dict[str, Raw]) -> tuple[dict[str, Raw], dict[str, list[str]]]:
    """Return the runs with sweeps expanded, and the names that each run expands to.

    Lists under `sweep` are multiplied; the lists of a `zip` group inside it advance together.
    A run `r` swept over lr becomes `r-0.001`, `r-0.01`: the values, in the order of the keys. Where
    that exceeds 40 characters, the longest parts lose their ends and a digest keeps names apart.
    A sweep counts rather than a value that the run has from an earlier file, `sweep: null` undoes
    that of an earlier file.
    """
    expanded: dict[str, Raw] = {}
    members: dict[str, list[str]] = {}
    for name, raw in runs.items():
        swept = isinstance(raw, dict) and raw.get("sweep") is not None
        points = list(_points(name, raw)) if swept else [{}]
        rest = {k: v for k, v in raw.items() if k != "sweep"} if isinstance(raw, dict) else raw
        for point in points:
            member = _joined([name, *(_spell(value) for value in point.values())])
            if member in expanded:
                raise TerseError(f"runs.{name}.sweep: two runs would be called {member!r}")
            expanded[member] = {**rest, **point} if point else rest
            members.setdefault(name, []).append(member)
    return expanded, members


def _points(name: str, raw: Raw) -> list[Raw]:
    """Return the settings of each point of a sweep, in order."""
    sweep = raw["sweep"]
    where = f"runs.{name}.sweep"
    if not isinstance(sweep, dict) or not sweep:
        raise TerseError(f"{where}: give keys with lists of values")
    axes = []
    for key, values in sweep.items():
        axis = _zipped(where, values) if key == "zip" else _listed(where, key, values)
        axes.append(axis)
    points = [
        {k: v for part in combination for k, v in part.items()}
        for combination in itertools.product(*axes)
    ]
    for key in sorted(points[0].keys() & raw.keys()):
        _replace(where, key, raw)
    return points


def _replace(where: str, key: str, raw: Raw) -> None:
    """Warn that a sweep replaces a value; raise TerseError if that was given after the sweep.

    Snakemake merges the files into one map, in which the keys of a later file follow.
    """
    order = list(raw)
    if order.index(key) > order.index("sweep"):
        raise TerseError(f"{where}.{key}: the key is also set outside the sweep")
    logger.warning("%s.%s: counts rather than %s: %s", where, key, key, raw[key])


def _listed(where: str, key: str, values: Any) -> list[Raw]:
    if not isinstance(values, list) or not values:
        raise TerseError(f"{where}.{key}: give a list of values, not {values!r}")
    return [{key: value} for value in values]


def _zipped(where: str, group: Any) -> list[Raw]:
    if not isinstance(group, dict) or not group:
        raise TerseError(f"{where}.zip: give keys with lists of equal length")
    columns = [_listed(f"{where}.zip", key, values) for key, values in group.items()]
    if len({len(column) for column in columns}) != 1:
        lengths = ", ".join(f"{key} has {len(group[key])}" for key in group)
        raise TerseError(f"{where}.zip: lists of equal length are needed; {lengths}")
    return [{k: v for part in row for k, v in part.items()} for row in zip(*columns, strict=True)]


def _spell(value: Any) -> str:
    """Return a value as a piece of a name; -2 and 2 differ."""
    sign = "-" if isinstance(value, int | float) and value < 0 else ""
    return sign + re.sub(r"[^a-z0-9.]+", "-", str(value).lower()).strip("-.")


def _joined(parts: list[str]) -> str:
    """Return the parts as one name of at most `LONGEST` characters."""
    whole = "-".join(parts)
    if len(whole) <= LONGEST or len(parts) == 1:
        return whole
    digest = hashlib.sha256(whole.encode()).hexdigest()[:6]
    parts = list(parts)
    while len("-".join([*parts, digest])) > LONGEST:
        longest = max(range(len(parts)), key=lambda i: len(parts[i]))
        parts[longest] = parts[longest][:-1].rstrip("-.")
    return "-".join([*(part for part in parts if part), digest])
