"""Masks that need no training, at the same budget as the learned ones."""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from terse.methods.forgetting.masks import Mask
from terse.methods.forgetting.packing import Rows

N_SINKS = 4


class RecencyMask(Mask):
    """Keeps the last b tokens of a row."""

    causal = False  # the last tokens are known only at the end

    def __init__(self, forget_p: float = 0.0) -> None:
        super().__init__()
        self.forget_p = forget_p

    def forward(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
        place = torch.arange(ids.shape[1], device=ids.device, dtype=torch.float32)
        return place.expand(ids.shape)


class SinkRecencyMask(RecencyMask):
    """Keeps the first 4 tokens and the last b - 4 (https://arxiv.org/abs/2309.17453)."""

    def forward(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
        place = super().forward(ids, attention_mask)
        rank = attention_mask.long().cumsum(1)  # from 1
        return torch.where(rank <= N_SINKS, place + ids.shape[1], place)


class SurprisalMask(Mask):
    """Keeps the tokens that are rare in the training text.

    counts (V,): occurrences of each token there.
    """

    def __init__(self, counts: Tensor, forget_p: float = 0.0) -> None:
        super().__init__()
        self.forget_p = forget_p
        self.register_buffer("counts", counts, persistent=False)
        smoothed = counts.double() + 1
        surprisal = -torch.log2(smoothed / smoothed.sum()).float()
        self.register_buffer("surprisal", surprisal, persistent=False)

    def forward(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.get_buffer("surprisal")[ids]


class SaliencyMask(Mask):
    """Keeps the tokens whose removal would cost the most, by the gradient of the targets' loss.

    It is an oracle that reads the targets: a reader without them must be told its choice.
    """

    causal = False
    peeks = True

    def __init__(self, base: PreTrainedModel, forget_p: float = 0.0) -> None:
        super().__init__()
        self._base = (base,)
        self.forget_p = forget_p

    def forward(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the logits where the mask hides only targets."""
        real = torch.ones_like(attention_mask, dtype=torch.bool)
        rows = Rows(ids, real, ~attention_mask.bool())
        return self.logits(rows, attention_mask)

    def logits(self, rows: Rows, decided: Tensor) -> Tensor:
        """Return minus the derivative (B, T) of the targets' nats by the tokens' gates, at 1."""
        from terse.methods.forgetting.gates import gated_nats

        with torch.enable_grad():
            gates = torch.ones(rows.input_ids.shape, device=rows.input_ids.device)
            gates.requires_grad_(True)
            nats = gated_nats(self._base[0], rows, gates).sum()
            (slope,) = torch.autograd.grad(nats, gates)
        return -slope.detach()
