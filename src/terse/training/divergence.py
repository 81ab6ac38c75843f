"""How far a model's predictions are from a teacher's."""

import torch
from torch import Tensor, nn


def kl_divergence(teacher: Tensor, logits: Tensor) -> Tensor:
    """Return the summed KL(teacher || model) in nats and float32, from logits (n, V) both; >= 0."""
    log_p, log_q = (torch.log_softmax(x.float(), -1) for x in (teacher, logits))
    return nn.functional.kl_div(log_q, log_p, log_target=True, reduction="sum")
