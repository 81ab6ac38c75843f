"""Tiny masks, causal ones and ones that look ahead."""

from typing import Any

import torch

from terse.methods.forgetting.baselines import SurprisalMask
from terse.methods.forgetting.masks import CNNMLPForgetMask, Mask, MLPForgetMask, RNNForgetMask
from tiny_forgetting import language_model
from tiny_lms import VOCAB

LM = language_model("llama")
CAUSAL = {
    "mlp": lambda: MLPForgetMask(LM, 8),
    "cnn": lambda: CNNMLPForgetMask(LM, 8, 6, 3),
    "gru": lambda: RNNForgetMask(LM, 8),
    "lstm": lambda: RNNForgetMask(LM, 8, "LSTM"),
    "rnn": lambda: RNNForgetMask(LM, 8, "RNN"),
    "surprisal": lambda: SurprisalMask(torch.arange(VOCAB)),
}
AHEAD = {
    "cnn": lambda: CNNMLPForgetMask(LM, 8, 6, 3, causal=False),
    "gru": lambda: RNNForgetMask(LM, 8, bidirectional=True),
}


def made(maker: Any) -> Mask:
    """Return a mask in eval mode with the same weights each time."""
    torch.manual_seed(1)
    return maker().eval()
