"""The one exception that users are meant to read."""

import difflib
from collections.abc import Iterable


class TerseError(Exception):
    """What is wrong and what to do about it, in one sentence that fits on one line."""


def unknown_name(kind: str, given: str, allowed: Iterable[str]) -> TerseError:
    """Return the error for a name that is not in `allowed`, naming the nearest one that is."""
    names = sorted(allowed)
    near = difflib.get_close_matches(given, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return TerseError(f"unknown {kind} {given!r}; {hint}allowed: {', '.join(names) or 'none'}")
