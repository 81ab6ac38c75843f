"""What a mask removes and which targets are scored: `pack`, `prefix`, `kv`.

The loss is computed here in float32 from logits and aligned labels: a model's own `labels=` would
shift labels by one packed token.
"""

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from terse.errors import TerseError
from terse.methods.forgetting.packing import IGNORED, Packed, Rows, pack
from terse.methods.forgetting.windows import attention_masks


@dataclass(frozen=True)
class Scores:
    """The cost of each target, at its position in the original row.

    nats (B, T), 0 where nothing is scored. scored, hit (B, T) bool: targets, and those that were
    the most likely token. logits (n, V) of the scored targets, row by row.
    """

    nats: Tensor
    scored: Tensor
    hit: Tensor
    logits: Tensor


def decided(rows: Rows, mode: str) -> Tensor:
    """Return the tokens (B, T) that a mask decides on: the context in `prefix`, else all."""
    return rows.is_context if mode == "prefix" else rows.attention_mask


def check_sight(causal: bool, mode: str, what: str) -> None:
    """Raise TerseError for a mask that would look at text that is scored."""
    if not causal and mode != "prefix":
        raise TerseError(
            f"{what} looks ahead and mode {mode} scores the text that it sees: use mode prefix, "
            "or a causal mask with a causal rule"
        )


def score(
    lm: PreTrainedModel,
    rows: Rows,
    keep: Tensor,
    mode: str,
    *,
    positions: str = "original",
    pad_id: int = 0,
) -> Scores:
    """Return the cost of the targets of rows when only `keep` (B, T) of the decided tokens remain.

    `pack`: the next original token of each kept one, if it is a target. `prefix`: every target,
    after its packed context. `kv`: every target; a dropped token is hidden from all later ones. A
    layer's sliding window counts the remaining tokens in `pack` and `prefix`, and the positions of
    the original row in `kv`.
    """
    if mode == "kv":
        return _score_hidden(lm, rows, keep)
    where = decided(rows, mode)
    left = torch.where(where, keep, rows.attention_mask)
    if mode == "prefix":  # each target needs a token to be predicted from
        left[:, :-1] |= rows.is_target[:, 1:]
    packed = pack(rows.input_ids, left, rows.attention_mask, pad_id=pad_id, positions=positions)
    at = packed.src_index + 1
    is_target = torch.zeros_like(packed.attention_mask)
    is_target |= rows.is_target.gather(1, at.clamp(max=rows.is_target.shape[1] - 1))
    labels = packed.labels.masked_fill(~is_target, IGNORED)  # (B, b)
    first, last = _span(labels)
    logits = packed_logits(lm, packed, first, last)  # (B, last - first, V)
    return _scores(logits, labels[:, first:last], at[:, first:last], rows)


def packed_logits(lm: PreTrainedModel, packed: Packed, first: int = 0, last: int | None = None):
    """Return the logits (B, last - first, V) of packed rows at the columns first..last.

    The attention mask is always passed: without one, transformers takes gaps between positions for
    boundaries between sequences and blocks attention across them.
    """
    options: dict[str, Tensor] = {}
    accepted = inspect.signature(lm.forward).parameters
    if "position_ids" in accepted:
        options["position_ids"] = packed.position_ids
    elif _has_gaps(packed):
        raise TerseError(
            f"{type(lm).__name__} takes no position_ids, so gaps cannot stay: positions: compact"
        )
    last = packed.input_ids.shape[1] if last is None else last
    whole = first == 0 and last == packed.input_ids.shape[1]
    sliced = "logits_to_keep" in accepted and not whole
    if sliced:
        options["logits_to_keep"] = torch.arange(first, last, device=packed.input_ids.device)
    logits = lm(
        input_ids=packed.input_ids, attention_mask=packed.attention_mask.long(), use_cache=False,
        **options,
    ).logits  # fmt: skip
    return logits if sliced else logits[:, first:last]


def _has_gaps(packed: Packed) -> bool:
    place = torch.arange(packed.input_ids.shape[1], device=packed.input_ids.device)
    return bool(((packed.position_ids != place) & packed.attention_mask).any())


def _span(labels: Tensor) -> tuple[int, int]:
    """Return the first column with a label in any row (B, b), and the one after the last."""
    places = (labels != IGNORED).any(0).nonzero()[:, 0].tolist()
    if not places:
        raise TerseError("no target is scored: every token before a target was dropped")
    return places[0], places[-1] + 1


def _scores(logits: Tensor, labels: Tensor, at: Tensor, rows: Rows) -> Scores:
    """Return scores from logits (B, n, V), labels (B, n) and their original positions (B, n)."""
    chosen = labels != IGNORED
    picked = logits[chosen].float()  # (targets, V)
    values = nn.functional.cross_entropy(picked, labels[chosen], reduction="none")
    row = torch.arange(len(labels), device=labels.device)[:, None].expand_as(labels)
    where = (row[chosen], at[chosen])
    shape = rows.input_ids.shape
    nats = torch.zeros(shape, device=logits.device).index_put(where, values)
    scored, hit = (torch.zeros(shape, dtype=torch.bool, device=logits.device) for _ in range(2))
    scored[where] = True
    hit[where] = picked.argmax(-1) == labels[chosen]
    return Scores(nats, scored, hit, picked)


def _score_hidden(lm: PreTrainedModel, rows: Rows, keep: Tensor) -> Scores:
    logits = hidden_logits(lm, rows, keep)[:, :-1]
    labels = rows.input_ids[:, 1:].masked_fill(~rows.is_target[:, 1:], IGNORED)
    at = torch.arange(1, rows.input_ids.shape[1], device=labels.device).expand_as(labels)
    first, last = _span(labels)
    part = slice(first, last)
    return _scores(logits[:, part], labels[:, part], at[:, part], rows)


def hidden_logits(lm: PreTrainedModel, rows: Rows, keep: Tensor) -> Tensor:
    """Return the logits (B, T, V) of rows whose dropped tokens are hidden from later ones."""
    mask: Any = rows.attention_mask.long()
    if not bool((keep | ~rows.attention_mask).all()):
        mask = hiding_masks(lm, keep & rows.attention_mask)
    return lm(input_ids=rows.input_ids, attention_mask=mask, use_cache=False).logits


def hiding_masks(lm: PreTrainedModel, keep: Tensor) -> Tensor | dict[str, Tensor]:
    """Return the additive mask (B, 1, T, T) of rows, or one for each kind of layer of a model.

    It is causal and within a layer's window; a token sees itself and kept tokens (B, T).
    """
    T = keep.shape[1]
    own = torch.eye(T, dtype=torch.bool, device=keep.device)
    seen = torch.ones_like(own).tril() & keep[:, None, :] | own  # (B, T, T)
    places = torch.arange(T, device=keep.device).expand_as(keep)
    return attention_masks(lm, seen, places, places)
