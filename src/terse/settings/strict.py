"""The base of every settings class: closed and frozen; old names work with a warning."""

import logging
from types import UnionType
from typing import Annotated, Any, ClassVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, model_validator

from terse.errors import TerseError, unknown_name
from terse.settings.foreign import COUNTERPARTS

logger = logging.getLogger(__name__)

# A name chosen by the user; it becomes part of a path, so it is short and plain.
NAME_PATTERN = r"[a-z0-9][a-z0-9.-]{0,39}"
Name = Annotated[str, Field(pattern=f"^{NAME_PATTERN}$")]

# A name with this at its end is of what may be missing: it is left out then, and a line says so.
OPTIONAL = "?"
MaybeName = Annotated[str, Field(pattern=rf"^{NAME_PATTERN}\??$")]


class Strict(BaseModel):
    """A block of settings that refuses unknown keys and cannot be changed."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True
    )
    # Old or misspelt names from the original systems: {old: current}. An overlay may have the one
    # name and the file below it the other: Snakemake merges both into one map, the later one last.
    aliases: ClassVar[dict[str, str]] = {}

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, raw: Any) -> Any:
        if not isinstance(raw, dict):
            return raw
        renamed = dict(raw)
        for old, new in cls.aliases.items():
            if old in renamed:
                value, order = renamed.pop(old), list(raw)
                if new not in raw or order.index(old) > order.index(new):
                    renamed[new] = value
                other = (
                    f"; the later of the two counts, {new}: {renamed[new]}" if new in raw else ""
                )
                logger.warning("%s is an old name, write %s%s", old, new, other)
        for key in renamed:
            if key not in cls.model_fields:
                raise ValueError(str(unknown_key(str(key), cls)))
            if isinstance(renamed[key], bool) and _is_number(cls.model_fields[key].annotation):
                raise ValueError(f"{key}: must be a number; given: {renamed[key]}")
        return renamed

    def block(self, part: type["Strict"]) -> dict[str, Any]:
        """Return the settings that `part`, a base class of this one, declares, as plain JSON."""
        return self.model_dump(mode="json", include=set(part.model_fields))


def unknown_key(key: str, block: type[Strict]) -> TerseError:
    """Return the error for a key that a block lacks, with its counterpart or the nearest one."""
    error = unknown_name("key", key, block.model_fields, block.aliases)
    if key not in COUNTERPARTS:
        return error
    _, _, allowed = str(error).rpartition("allowed: ")
    return TerseError(f"unknown key {key!r}; here: {COUNTERPARTS[key]}; allowed: {allowed}")


def _is_number(annotation: Any) -> bool:
    """Return whether a key takes a number; pydantic would read `true` as 1."""
    kinds = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    return bool({int, float} & set(kinds)) and bool not in kinds
