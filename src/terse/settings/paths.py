"""File names that a workflow can contain: UTF-8, without braces, which mark wildcards."""

import os

from terse.errors import TerseError


def checked_name(name: str, what: str) -> str:
    """Return the name of a file or folder; raise TerseError if Snakemake can't handle it."""
    shown = os.fsencode(name).decode("utf-8", "backslashreplace")
    if shown != name:
        raise TerseError(f"{what} {shown} has a name that is not UTF-8: rename it")
    if "{" in name or "}" in name:
        raise TerseError(
            f"{what} {name} has braces in its name, which Snakemake takes for a wildcard: rename it"
        )
    return name
