"""Keys with small norms get much attention."""

from torch import Tensor

from terse.evaluation.frontier.eviction import CacheScore
from terse.evaluation.frontier.observed import Layer


class KNorm(CacheScore):
    """Minus the norm of each key (https://arxiv.org/abs/2406.11430)."""

    def score(self, layer: Layer) -> Tensor:
        return -layer.keys.float().norm(dim=-1)
