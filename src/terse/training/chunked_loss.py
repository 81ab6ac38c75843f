"""The cross-entropy of a language model without all of its logits in memory at a time.

Gradients are made together with a chunk's logits, in the forward pass, as Liger Kernel does it (Hsu
et al. 2024, https://arxiv.org/abs/2410.10989), so that nothing is computed twice.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear
from transformers import PreTrainedModel

from terse.errors import TerseError

IGNORED = -100


def chunked_cross_entropy(hidden: Tensor, head: nn.Linear, labels: Tensor, chunk: int) -> Tensor:
    """Return the summed cross-entropy in nats of `head(hidden)`, `chunk` positions at a time.

    It can be differentiated once.

    Args:
        hidden: (N, D) hidden states. head: (n, D) -> (n, V) logits.
        labels: (N,) targets, `IGNORED` where there is none; those positions are not computed.
        chunk: positions whose logits are in memory together.
    """
    wanted = (labels != IGNORED).nonzero().flatten()
    return _ChunkedCrossEntropy.apply(hidden[wanted], head.weight, head.bias, labels[wanted], chunk)


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, chunk: int
    ) -> Tensor:
        sides = (hidden, weight, bias)
        wanted = ctx.needs_input_grad[:3]  # none of them without gradients
        grads = [
            torch.zeros_like(side) if want and side is not None else None
            for side, want in zip(sides, wanted, strict=True)
        ]
        total = hidden.new_zeros((), dtype=torch.float32)
        for start in range(0, len(labels), chunk):
            place = slice(start, start + chunk)
            logits = linear(hidden[place], weight, bias)  # (n, V), of a lower precision in autocast
            log_p, targets = logits.float().log_softmax(-1), labels[place, None]
            total -= log_p.gather(1, targets).sum()
            if any(wanted):
                slope = log_p.exp_().scatter_add_(1, targets, log_p.new_full(targets.shape, -1.0))
                _add_gradients(grads, slope.to(logits.dtype), hidden[place], weight, place)
        ctx.grads = grads
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        grads, ctx.grads = ctx.grads, None  # scaled where they are: the weight's is the largest
        if grads is None:
            raise RuntimeError("the chunked cross-entropy was differentiated already")
        return (*(None if grad is None else grad.mul_(scale) for grad in grads), None, None)


def _add_gradients(
    grads: list[Tensor | None], slope: Tensor, hidden: Tensor, weight: Tensor, place: slice
) -> None:
    """Add to the gradients of hidden states, weight and bias, given that of the logits (n, V)."""
    of_hidden, of_weight, of_bias = grads
    if of_hidden is not None:
        of_hidden[place] = slope @ weight.to(slope.dtype)
    if of_weight is not None and of_weight.dtype == slope.dtype == hidden.dtype:
        of_weight.addmm_(slope.T, hidden)
    elif of_weight is not None:
        of_weight += slope.T @ hidden.to(slope.dtype)
    if of_bias is not None:
        of_bias += slope.sum(0, dtype=torch.float32)


def next_token_nats(lm: PreTrainedModel, tokens: Tensor, labels: Tensor, chunk: int) -> Tensor:
    """Return the summed cross-entropy in nats of the next tokens, for rows (B, T)."""
    hidden = lm.base_model(input_ids=tokens, use_cache=False).last_hidden_state  # (B, T, D)
    return chunked_cross_entropy(
        hidden[:, :-1].flatten(0, 1), head_of(lm), labels[:, 1:].flatten(), chunk
    )


def head_of(model: PreTrainedModel) -> nn.Linear:
    """Return the linear layer that makes a language model's logits."""
    head = model.get_output_embeddings()
    if type(head) is not nn.Linear:  # a subclass may do more
        raise TerseError(
            f"loss_chunk: {type(model).__name__} makes its logits with no plain linear layer: "
            "leave it out"
        )
    return head


@torch.no_grad()
def check_plain_head(model: PreTrainedModel) -> None:
    """Raise TerseError if a model does more with its hidden states than multiply them.

    Such as Gemma 2, which caps its logits, or Granite, which scales them.
    """
    tokens = torch.arange(2, device=model.device)[None]
    was_training = model.training
    model.eval()
    logits = model(input_ids=tokens, use_cache=False).logits
    plain = head_of(model)(model.base_model(input_ids=tokens, use_cache=False).last_hidden_state)
    model.train(was_training)
    if plain.shape != logits.shape or not torch.allclose(plain, logits, rtol=1e-5, atol=1e-6):
        raise TerseError(
            f"loss_chunk: {type(model).__name__} scales or caps its logits: leave loss_chunk out"
        )
