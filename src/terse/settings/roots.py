"""Where the folders of the workflow lie."""

from pydantic import Field

from terse.settings.strict import Strict


class Roots(Strict):
    """Where the three folders of the workflow really lie; a value elsewhere becomes a link."""

    results: str = Field("results", min_length=1, description="what people read")
    cache: str = Field("cache", min_length=1, description="large, can be made again")
    state: str = Field("state", min_length=1, description="what a training needs to go on")
