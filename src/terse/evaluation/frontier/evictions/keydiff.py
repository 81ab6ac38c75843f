"""Keys unlike the others matter most."""

from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from terse.evaluation.frontier.eviction import CacheScore
from terse.evaluation.frontier.observed import Layer


class KeyDiff(CacheScore):
    """Minus the cosine of each key and the mean direction (https://arxiv.org/abs/2504.15364)."""

    def score(self, layer: Layer) -> Tensor:
        anchor = normalize(layer.keys, dim=-1).mean(1, keepdim=True)  # (H, 1, D)
        return -cosine_similarity(layer.keys, anchor, dim=-1)
