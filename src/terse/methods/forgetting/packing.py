"""Dropping tokens from rows: kept tokens are packed together, the rest leaves the input."""

from dataclasses import dataclass

import torch
from torch import Tensor

IGNORED = -100


@dataclass(frozen=True)
class Rows:
    """Rows of text, padded on the right.

    input_ids (B, T) int64. attention_mask (B, T), true on real tokens. is_target (B, T), true on
    the tokens whose prediction is scored; in `prefix` they are a block after its context.
    """

    input_ids: Tensor
    attention_mask: Tensor
    is_target: Tensor

    @property
    def is_context(self) -> Tensor:
        """The real tokens (B, T) that are not targets."""
        return self.attention_mask & ~self.is_target


@dataclass(frozen=True)
class Packed:
    """Rows of kept tokens, padded on the right to the longest, b.

    input_ids, position_ids (B, b) int64. attention_mask (B, b) bool. labels (B, b): the next token
    of the *original* row, -100 on padding and at the row's end. src_index (B, b): the token's
    position in the original row, 0 on padding. lengths (B,): kept tokens.
    """

    input_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    labels: Tensor
    src_index: Tensor
    lengths: Tensor


def pack(
    ids: Tensor,
    keep: Tensor,
    attention_mask: Tensor | None = None,
    *,
    pad_id: int = 0,
    positions: str = "original",
) -> Packed:
    """Return the kept tokens of rows (B, T), packed together; keep (B, T) bool.

    attention_mask (B, T): real tokens, all if None. positions: `original` leaves gaps, equivalent
    to masking the dropped tokens; `compact` counts the kept ones.
    """
    real = torch.ones_like(ids, dtype=torch.bool) if attention_mask is None else attention_mask
    real = real.bool()
    keep = keep.bool() & real
    lengths = keep.sum(1)  # (B,)
    b = int(lengths.max())
    src = torch.argsort((~keep).byte(), dim=1, stable=True)[:, :b]  # (B, b), kept first
    place = torch.arange(b, device=ids.device).expand(len(ids), -1)
    valid = place < lengths[:, None]
    src = src.masked_fill(~valid, 0)
    following = torch.full_like(ids, IGNORED)
    following[:, :-1] = torch.where(real[:, 1:], ids[:, 1:], IGNORED)  # (B, T)
    places = src if positions == "original" else place
    return Packed(
        input_ids=ids.gather(1, src).masked_fill(~valid, pad_id),
        attention_mask=valid,
        position_ids=places.masked_fill(~valid, 0),
        labels=following.gather(1, src).masked_fill(~valid, IGNORED),
        src_index=src,
        lengths=lengths,
    )


def apply_mask(input_ids: Tensor, mask: Tensor, pad_id: int = 0) -> tuple[Tensor, Tensor]:
    """Return the tokens (B, b) that a mask (B, T) keeps, right-padded, and the real ones (B, b).

    mask: true or 1 on kept tokens.
    """
    packed = pack(input_ids, mask, pad_id=pad_id)
    return packed.input_ids, packed.attention_mask
