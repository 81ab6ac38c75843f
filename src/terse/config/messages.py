"""A validation error as lines: where, what was given, what is allowed, the nearest name."""

import re
from typing import Any

from pydantic import ValidationError

from terse.errors import unknown_name

Location = tuple[int | str, ...]


def lines(error: ValidationError, prefix: Location = ()) -> list[str]:
    """Return one line for each thing that is wrong."""
    return [_line(detail, prefix) for detail in error.errors()]


def _line(detail: Any, prefix: Location) -> str:
    parts = [str(part) for part in (*prefix, *detail["loc"]) if part != "[key]"]
    # Members of a union are tried in turn and leave their type's name in the place.
    parts = [part for part in parts if not re.match(r"(int$|list\[|constrained-|literal\[)", part)]
    return f"{'.'.join(parts) or 'config'}: {_complaint(detail)}"


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
                f"{given!r} is no name; allowed: up to 40 of a-z, 0-9, dot and hyphen, "
                "the first a letter or digit"
            )
        case "model_type":
            return f"a block of keys is needed; given: {given!r}"
    message = detail["msg"].replace("Input should be", "should be")
    return f"{message[0].lower()}{message[1:]}; given: {given!r}"
