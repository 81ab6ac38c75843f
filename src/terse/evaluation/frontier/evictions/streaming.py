"""StreamingLLM: the first tokens, on which attention rests, and the last ones."""

import torch
from torch import Tensor

from terse.evaluation.frontier.eviction import CacheScore
from terse.evaluation.frontier.observed import Layer

N_SINKS = 4


class Streaming(CacheScore):
    """The first 4 positions, then the most recent ones (https://arxiv.org/abs/2309.17453)."""

    def score(self, layer: Layer) -> Tensor:
        place = torch.arange(layer.L, device=layer.keys.device).float()
        return torch.where(place < N_SINKS, 2 * layer.L - place, place).expand(len(layer.keys), -1)
