"""What the target `all` makes."""

from pydantic import Field

from terse.settings.strict import MaybeName, Name, Strict


class Select(Strict):
    """What the target `all` makes; anything else defined can be requested by its path."""

    runs: list[Name] = Field([], description="runs (or sweeps) that are trained and evaluated")
    ids: list[Name] = Field([], description="models whose dimensions are estimated")
    harness: list[Name] = Field([], description="models and runs that lm-eval scores")
    frontier: list[MaybeName] = Field(
        [],
        description="studies of the frontier that are drawn; `name?`: only if the reader and all "
        "runs and models among the ways are selected too",
    )
