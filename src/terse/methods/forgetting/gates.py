"""A gate on each token inside attention: g_j exp(s_ij) / sum_k g_k exp(s_ik).

It equals the model at 1 and dropping the token at 0, and is smooth in between. A scaled embedding
does not: a token of zeros is still attended to.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from terse.methods.forgetting.packing import Rows
from terse.methods.forgetting.windows import in_windows

NAME = "terse_gated"
MOST = 30.0  # above the largest score among kept tokens; exp stays finite


def gated_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend with gates (B, 1, T, T) for the mask; query, key and value (B, H, T, D)."""
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (x.repeat_interleave(groups, 1) for x in (key, value))
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = (query @ key.transpose(-1, -2)).float() * scale  # (B, H, T, T)
    largest = scores.masked_fill(attention_mask <= 0, -torch.inf).amax(-1, keepdim=True)
    weights = attention_mask * (scores - largest.detach()).clamp(max=MOST).exp()
    weights = weights / weights.sum(-1, keepdim=True)
    weights = nn.functional.dropout(weights, dropout, module.training)
    return (weights.to(value.dtype) @ value).transpose(1, 2).contiguous(), None


ALL_ATTENTION_FUNCTIONS.register(NAME, gated_attention)


@contextmanager
def gating(lm: PreTrainedModel) -> Iterator[None]:
    """Let a model's attention take gates as its mask inside the context."""
    config = lm.config.get_text_config()
    before = config._attn_implementation
    config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before


def gate_matrix(gates: Tensor, real: Tensor) -> Tensor:
    """Return gates (B, 1, T, T) from tokens' gates (B, T): causal, 1 on a token itself.

    real (B, T): false on padding, which no other token sees.
    """
    T = gates.shape[1]
    causal = torch.ones(T, T, device=gates.device).tril(-1)
    own = torch.eye(T, device=gates.device)
    return (causal * (gates * real)[:, None, :] + own)[:, None]


def gated_nats(lm: PreTrainedModel, rows: Rows, gates: Tensor) -> Tensor:
    """Return the nats (B, T) of each target, 0 elsewhere; gates (B, T) in 0..1 on all tokens."""
    with gating(lm):
        logits = lm(
            input_ids=rows.input_ids,
            attention_mask=_windowed(lm, gate_matrix(gates, rows.attention_mask)),
            use_cache=False,
        ).logits[:, :-1]  # (B, T - 1, V)
    labels = rows.input_ids[:, 1:].masked_fill(~rows.is_target[:, 1:], -100)
    nats = nn.functional.cross_entropy(
        logits.float().transpose(1, 2), labels, ignore_index=-100, reduction="none"
    )
    return nn.functional.pad(nats, (1, 0))


def _windowed(lm: PreTrainedModel, gates: Tensor) -> Tensor | dict[str, Tensor]:
    """Return gates (B, 1, T, T), 0 outside the windows of a model's layers."""
    places = torch.arange(gates.shape[-1], device=gates.device)[None]
    return in_windows(lm, places, places, lambda near: gates * near[:, None])
