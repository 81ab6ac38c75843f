"""Packing by hand."""

import pytest
import torch

from terse.errors import TerseError
from terse.methods.forgetting import apply_mask, create_random_forgetting_mask, pack
from tiny_lms import random_tokens


def test_pack_by_hand() -> None:
    ids = torch.tensor([[5, 6, 7, 8, 9], [5, 6, 7, 0, 0]])
    real = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    keep = torch.tensor([[1, 0, 1, 0, 1], [1, 0, 1, 1, 1]]).bool()
    packed = pack(ids, keep, real, pad_id=3)
    assert packed.input_ids.tolist() == [[5, 7, 9], [5, 7, 3]]
    assert packed.attention_mask.tolist() == [[True, True, True], [True, True, False]]
    assert packed.labels.tolist() == [[6, 8, -100], [6, -100, -100]]
    assert packed.src_index.tolist() == [[0, 2, 4], [0, 2, 0]]
    assert packed.lengths.tolist() == [3, 2]
    assert packed.position_ids.tolist() == [[0, 2, 4], [0, 2, 0]]
    compact = pack(ids, keep, real, positions="compact")
    assert compact.position_ids.tolist() == [[0, 1, 2], [0, 1, 0]]
    tokens, mask = apply_mask(ids[:1], keep[:1].long())
    assert tokens.tolist() == [[5, 7, 9]]
    assert mask.all()


def test_random_mask_drops_exactly_its_share() -> None:
    torch.manual_seed(0)
    ids = random_tokens(40, 30)
    for share, n_dropped in ((0.0, 0), (0.1, 3), (0.55, 16), (0.7, 21), (1.0, 30)):
        keep = create_random_forgetting_mask(ids, share)
        assert ((~keep).sum(1) == n_dropped).all()
    keep = create_random_forgetting_mask(ids, 0.5)
    often = (~keep).float().mean(0)
    assert (often > 0.15).all()
    assert (often < 0.85).all()
    free = torch.zeros_like(keep)
    free[:, 10:20] = True
    keep = create_random_forgetting_mask(ids, 0.5, free)
    assert ((~keep).sum(1) == 5).all()
    assert keep[:, :10].all()
    with pytest.raises(TerseError, match="allowed: 0 to 1"):
        create_random_forgetting_mask(ids, 1.1)
