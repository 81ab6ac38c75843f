"""What a call of `estimate` asks for."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Asked:
    """What the caller asked for, without the rarer estimators."""

    names: tuple[str, ...]
    skip_first: int
    max_norm_multiple: float | None
    theiler_window: int
    reference: bool
    compat: str | None
    distances: bool
    local_ids: bool
