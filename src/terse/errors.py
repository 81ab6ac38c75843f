"""The one exception that users are meant to read."""

import difflib
from collections.abc import Iterable, Mapping

MOST_NAMES = 60
"""Allowed names that are all listed; of more, the nearest ones are."""


class TerseError(Exception):
    """What is wrong and what to do about it, in one line."""


def unknown_name(
    kind: str, given: str, allowed: Iterable[str], aliases: Mapping[str, str] | None = None
) -> TerseError:
    """Return the error for a name that is not in `allowed`, with the nearest allowed name.

    Of more than MOST_NAMES it lists the ten nearest. `aliases` maps other names that people use
    to the allowed ones.
    """
    names, known = sorted(allowed), dict(aliases or {})
    near = difflib.get_close_matches(given, [*names, *known], n=1, cutoff=0.5)
    hint = f"did you mean {known.get(near[0], near[0])!r}? " if near else ""
    listed = ", ".join(names) or "none"
    if len(names) > MOST_NAMES:
        nearest = difflib.get_close_matches(given, names, n=10, cutoff=0.0)
        listed = f"{len(names)} names, of which the nearest are {', '.join(nearest)}"
    return TerseError(f"unknown {kind} {given!r}; {hint}allowed: {listed}")
