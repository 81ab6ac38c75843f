"""TOVA: what the context's last token attends to."""

from torch import Tensor
from torch.nn.functional import pad

from terse.evaluation.frontier.eviction import CacheScore
from terse.evaluation.frontier.evictions.snapkv import attention_flops, window_attention
from terse.evaluation.frontier.observed import Layer


class TOVA(CacheScore):
    """The last position's attention, the same for all heads; it is itself held.

    (https://arxiv.org/abs/2401.06104)
    """

    asks = True

    def score(self, layer: Layer) -> Tensor:
        seen = window_attention(layer, 1).flatten(0, 2).mean(0)[:-1]  # (L - 1,)
        return pad(seen, (0, 1), value=float(seen.max()) + 1).expand(len(layer.keys), -1)

    def flops(self, layer: Layer) -> float:
        return attention_flops(layer, 1)
