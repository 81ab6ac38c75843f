"""Small blocks of the configuration."""

from pydantic import Field

from terse.config.strict import Name, Strict


class Roots(Strict):
    """Where the three folders of the workflow really lie; a value elsewhere becomes a link."""

    results: str = Field("results", min_length=1, description="what people read")
    cache: str = Field("cache", min_length=1, description="large, can be made again")
    state: str = Field("state", min_length=1, description="what a training needs to go on")


class Select(Strict):
    """What the target `all` makes; anything defined can still be asked for by its path."""

    runs: list[Name] = Field([], description="runs (or sweeps) that are trained and evaluated")
    ids: list[Name] = Field([], description="models whose dimensions are estimated")
    harness: list[Name] = Field([], description="models and runs that lm-eval asks its tasks")
