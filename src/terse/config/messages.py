"""A validation error as lines: where, what was given, what is allowed, the nearest name."""

import itertools
import re
from typing import Any

from pydantic import ValidationError

from terse.errors import unknown_name

Location = tuple[int | str, ...]

# What pydantic appends to an error's location for a member of a union: the member's type.
_MEMBER = re.compile(r"(int$|list\[|constrained-|literal\[)")


def lines(error: ValidationError, prefix: Location = ()) -> list[str]:
    """Return one line for each fault."""
    complaints: dict[str, list[str]] = {}
    for detail in error.errors():
        complaints.setdefault(_place((*prefix, *detail["loc"])), []).append(_complaint(detail))
    return [f"{place}: {'; or '.join(said)}" for place, said in complaints.items()]


def _place(location: Location) -> str:
    """Return the path of a key; the members of a union share the union's path."""
    parts = [str(part) for part in location if part != "[key]"]
    key = itertools.takewhile(lambda part: not _MEMBER.match(part), parts)
    return ".".join(key) or "config"


def _complaint(detail: Any) -> str:
    given = detail["input"]
    context = detail.get("ctx", {})
    match detail["type"]:
        case "value_error":
            return str(context["error"])
        case "missing":
            return "this key is missing and has no default"
        case "literal_error":
            allowed = re.findall(r"'([^']*)'", context["expected"])
            return str(unknown_name("value", str(given), allowed))
        case "string_pattern_mismatch" if "{0,39}" in context["pattern"]:
            return (
                f"{given!r} is not a valid name; allowed: up to 40 of a-z, 0-9, dot and hyphen, "
                "starting with a letter or digit"
            )
        case "model_type":
            return f"must be a block of keys; given: {given!r}"
    message = detail["msg"].replace("Input should be", "should be")
    return f"{message[0].lower()}{message[1:]}; given: {given!r}"
