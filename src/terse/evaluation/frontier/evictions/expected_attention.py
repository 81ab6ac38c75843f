"""The attention that later queries are expected to pay."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from terse.errors import TerseError
from terse.evaluation.frontier.eviction import CacheScore
from terse.evaluation.frontier.observed import Layer
from terse.evaluation.frontier.rotary import rotate_half

N_SINKS, N_FUTURE = 4, 512  # positions


class ExpectedAttention(CacheScore):
    """E exp(q k) over normal queries q at the next 512 positions, times the value's norm.

    The first 4 positions are held and not counted. (https://arxiv.org/abs/2510.00636)
    """

    asks = True
    turns = True

    def score(self, layer: Layer) -> Tensor:
        if layer.L <= N_SINKS + 1:
            raise TerseError(
                f"expected_attention holds {N_SINKS} first positions, but a context has {layer.L}"
            )
        mean, covariance = query_statistics(layer)  # (H, g, D), (H, g, D, D)
        keys = layer.keys[:, N_SINKS:]  # (H, n, D)
        products = mean @ keys.transpose(-1, -2) * layer.scaling  # (H, g, n)
        spread = keys @ covariance.transpose(1, 2).flatten(2)  # (H, n, g D), one product a key head
        spread = (spread.unflatten(-1, mean.shape[1:]) * keys[:, :, None]).sum(-1)  # (H, n, g)
        products += spread.transpose(1, 2) * (layer.scaling**2 / 2)
        scores = products.softmax(-1).mean(1) * layer.values[:, N_SINKS:].norm(dim=-1)
        return pad(scores, (N_SINKS, 0), value=float(scores.max()) + 1)

    def flops(self, layer: Layer) -> float:
        Q, _, D = layer.asked.flatten(0, 1).shape
        n = layer.L - N_SINKS
        return 2.0 * Q * D * (n * (2 * D + 1) + D * (2 * D + 1))


def query_statistics(layer: Layer) -> tuple[Tensor, Tensor]:
    """Return mean and covariance of queries at a later position, (H, Q / H, D[, D]).

    They are those of the context's queries without positions, rotated by the mean rotation of the
    next positions.
    """
    if layer.rotary is None or layer.queries is None:
        raise TerseError("expected_attention needs the layer's queries and rotary positions")
    place = torch.arange(N_SINKS, layer.L, device=layer.keys.device)
    asked = layer.asked[:, :, N_SINKS:]
    plain = layer.rotary.turned(asked, -place)  # (H, g, n, D)
    mean = plain.mean(2)
    centred = plain.sub_(mean[:, :, None])
    covariance = centred.transpose(-1, -2) @ centred / plain.shape[2]
    turn = mean_turn(layer)  # (D, D)
    return mean @ turn.T, turn @ covariance @ turn.T


def mean_turn(layer: Layer) -> Tensor:
    """Return the mean of the rotations of the next positions as a matrix (D, D)."""
    assert layer.rotary is not None
    later = layer.L + torch.arange(N_FUTURE, device=layer.keys.device)
    cos, sin = (x.mean(0) for x in layer.rotary.angles(later, layer.keys))  # (D,) each
    unit = torch.eye(len(cos), device=cos.device, dtype=cos.dtype)
    return cos[:, None] * unit + sin[:, None] * rotate_half(unit).T
