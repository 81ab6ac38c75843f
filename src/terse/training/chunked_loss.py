"""The cross-entropy of a language model without all of its logits in memory at a time.

The idea of Cut Cross-Entropy (Wijmans et al. 2025, https://arxiv.org/abs/2411.09009), in PyTorch
alone: the logits of a chunk are made again in the backward pass.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from terse.errors import TerseError

IGNORED = -100


def chunked_cross_entropy(hidden: Tensor, head: nn.Module, labels: Tensor, chunk: int) -> Tensor:
    """Return the summed cross-entropy in nats of `head(hidden)`, `chunk` positions at a time.

    Args:
        hidden: (N, D) hidden states. head: (n, D) -> (n, V) logits.
        labels: (N,) targets, `IGNORED` where there is none; those positions are not computed.
        chunk: positions whose logits are in memory together, in the forward and backward pass.
    """
    wanted = (labels != IGNORED).nonzero().flatten()
    hidden, labels = hidden[wanted], labels[wanted]

    def of_chunk(states: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(head(states).float(), targets, reduction="sum")

    total = hidden.new_zeros((), dtype=torch.float32)
    for states, targets in zip(hidden.split(chunk), labels.split(chunk), strict=True):
        total = total + checkpoint(of_chunk, states, targets, use_reentrant=False)
    return total


def next_token_nats(lm: PreTrainedModel, tokens: Tensor, labels: Tensor, chunk: int) -> Tensor:
    """Return the summed cross-entropy in nats of the next tokens, for rows (B, T)."""
    hidden = lm.base_model(input_ids=tokens, use_cache=False).last_hidden_state  # (B, T, D)
    return chunked_cross_entropy(
        hidden[:, :-1].flatten(0, 1), head_of(lm), labels[:, 1:].flatten(), chunk
    )


def head_of(model: PreTrainedModel) -> nn.Module:
    """Return the module that makes a language model's logits."""
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Module):
        raise TerseError(
            f"loss_chunk: {type(model).__name__} has no output embeddings: leave it out"
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
