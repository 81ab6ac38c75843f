"""SnapKV: what the context's last tokens attend to."""

import torch
from torch import Tensor
from torch.nn.functional import avg_pool1d, pad

from terse.errors import TerseError
from terse.evaluation.frontier.eviction import CacheScore
from terse.evaluation.frontier.observed import Layer

WINDOW, KERNEL = 64, 5  # positions


class SnapKV(CacheScore):
    """The mean attention of the last 64 positions, smoothed over 5, then these positions.

    (https://arxiv.org/abs/2404.14469)
    """

    asks = True

    def score(self, layer: Layer) -> Tensor:
        if layer.L <= WINDOW:
            raise TerseError(
                f"snapkv looks from the last {WINDOW} positions at those before, but a context has "
                f"{layer.L}: raise context_bytes"
            )
        seen = window_attention(layer, WINDOW).mean(-2)[..., :-WINDOW].flatten(0, 1)  # (Q, L - w)
        smooth = avg_pool1d(seen[None], KERNEL, padding=KERNEL // 2, stride=1)[0]
        scores = smooth.unflatten(0, (len(layer.keys), -1)).mean(1)  # (H, L - w)
        return pad(scores, (0, WINDOW), value=float(scores.max()) + 1)

    def flops(self, layer: Layer) -> float:
        return attention_flops(layer, WINDOW)


def window_attention(layer: Layer, n: int) -> Tensor:
    """Return the attention of the last n positions, (H, Q / H, n, L)."""
    asked = layer.asked[:, :, -n:] * layer.scaling  # (H, Q / H, n, D)
    products = asked.flatten(1, 2) @ layer.keys.transpose(-1, -2)  # one product for each key head
    products = products.unflatten(1, asked.shape[1:3])  # (H, Q / H, n, L)
    if n > 1:
        later = torch.ones(n, n, dtype=torch.bool, device=products.device).triu(1)
        products[..., -n:].masked_fill_(later, -torch.inf)
    return products.softmax(-1, dtype=torch.float32)


def attention_flops(layer: Layer, n: int) -> float:
    """Return the FLOPs of `window_attention`."""
    return 2.0 * layer.asked[..., :n, :].numel() * layer.L
