"""Where the folders of the workflow are stored."""

from pydantic import Field

from terse.settings.strict import Strict


class Roots(Strict):
    """Where the three folders are really stored; a value other than the default becomes a link."""

    results: str = Field("results", min_length=1, description="what people read")
    cache: str = Field("cache", min_length=1, description="large, can be rebuilt")
    state: str = Field("state", min_length=1, description="what a training needs to resume")
