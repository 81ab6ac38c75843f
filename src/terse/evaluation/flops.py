"""One counter of work for all methods: floating-point operations (FLOPs) of forward passes.

Matrix products (linear maps, attention, convolutions, recurrent cells) are counted as
`torch.utils.flop_counter` counts them, two operations per multiply-add; norms, activations, softmax
and table look-ups are not counted. Attention multiplies each query by all keys of its pass,
including those that a causal mask hides. Padding costs nothing, and the head is counted only at the
scored positions, wherever a pass computes it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count
from transformers import PreTrainedModel

from terse.evaluation.scores import floats

LENGTHS = (4, 8)  # positions of the passes that are counted


@dataclass(frozen=True)
class PassFlops:
    """The cost of a forward pass: `linear` per position, `attention` per pair, `head` per score.

    A pair is a query and a key, of the same pass or already cached.
    """

    linear: float
    attention: float
    head: float = 0.0

    def total(self, n: Any, n_scored: Any = 0, past: Any = 0) -> Any:
        """Return the FLOPs of passes over n positions after `past` cached ones, float64.

        The arguments are numbers, or arrays or tensors of the same shape.
        """
        n, n_scored, past = floats(n), floats(n_scored), floats(past)
        return self.linear * n + self.attention * n * (n + past) + self.head * n_scored

    @classmethod
    def measured(cls, run: Callable[[int, int], Any]) -> "PassFlops":
        """Return the cost of `run(n, m)`, a pass over one row of n positions that scores m.

        Three short passes are counted: a Transformer's cost is a polynomial in these two lengths.
        """
        short, long = LENGTHS
        two, one = counted(lambda: run(long, 2)), counted(lambda: run(long, 1))
        head = float(two - one)
        a, b = (counted(lambda: run(short, 1)) - head) / short, (one - head) / long
        attention = (b - a) / (long - short)
        return cls(a - attention * short, attention, head)


def lm_flops(lm: PreTrainedModel) -> PassFlops:
    """Return the cost of passes through a causal language model of any architecture."""
    ids = torch.zeros(1, LENGTHS[-1], dtype=torch.long, device=lm.device)
    head: Any = lm.get_output_embeddings()

    def run(n: int, m: int) -> None:
        states = lm.base_model(input_ids=ids[:, :n], use_cache=False).last_hidden_state
        head(states[:, -m:])

    return PassFlops.measured(run)


def counted(way: Callable[[], Any]) -> int:
    """Return the FLOPs of `way`, counted from the kernels that it calls."""
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=FUSED) as counter:
        way()
    return int(counter.get_total_flops())


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


def _lstm(x: Any, from_input: Any, from_state: Any, *_: Any, **__: Any) -> int:
    """Return the FLOPs of a layer over x (T, B, in), with weights (4 H, in) and (4 H, H)."""
    return 2 * x[0] * x[1] * from_input[0] * (from_input[1] + from_state[1])


def _recurrent(x: Any, weights: Any, *_: Any, **__: Any) -> int:
    """Return the FLOPs of all layers of a fused recurrent network over x, (T, B, in) or (B, T, in).

    weights: shapes of matrices and biases.
    """
    return 2 * x[0] * x[1] * sum(w[0] * w[1] for w in weights if len(w) == 2)


_aten: Any = torch.ops.aten
# Kernels that FlopCounterMode does not know and would count as free.
FUSED: dict[Any, Callable[..., int]] = {
    _aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    _aten.mkldnn_rnn_layer: _lstm,
    _aten._cudnn_rnn: _recurrent,
}
