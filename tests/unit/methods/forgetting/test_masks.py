"""Masks see what they say they see and leave the base alone."""

from typing import Any

import pytest
import torch

from terse.errors import TerseError
from terse.methods.forgetting.decisions import droppable
from terse.methods.forgetting.modes import check_sight
from tiny_forgetting import text_rows
from tiny_lms import random_tokens
from tiny_masks import AHEAD, CAUSAL, made


@pytest.mark.parametrize("name", CAUSAL)
@torch.no_grad()
def test_causal_masks_see_no_later_token(name: str) -> None:
    mask = made(CAUSAL[name])
    assert mask.causal
    ids = random_tokens(3, 12)
    real = torch.ones_like(ids, dtype=torch.bool)
    whole = mask(ids, real)
    assert whole.shape == (3, 12)
    for t in (1, 5, 11):
        changed = ids.clone()
        changed[:, t:] = random_tokens(3, 12 - t, seed=9)
        assert torch.allclose(mask(changed, real)[:, :t], whole[:, :t], atol=1e-6)
        short = mask(ids[:, :t], real[:, :t])
        assert torch.allclose(short, whole[:, :t], atol=1e-6)
    assert whole.std() > 0


@pytest.mark.parametrize("name", AHEAD)
@torch.no_grad()
def test_masks_that_look_ahead_say_so(name: str) -> None:
    mask = made(AHEAD[name])
    assert not mask.causal
    ids = random_tokens(2, 12)
    real = torch.ones_like(ids, dtype=torch.bool)
    changed = ids.clone()
    changed[:, 6] = 7
    assert not torch.allclose(mask(changed, real)[:, 5], mask(ids, real)[:, 5], atol=1e-6)
    with pytest.raises(TerseError, match="looks ahead and mode kv scores the text that it sees"):
        check_sight(mask.causal, "kv", "mask rnn")
    check_sight(mask.causal, "prefix", "mask rnn")


@pytest.mark.parametrize("maker", [*CAUSAL.values(), *AHEAD.values()])
@torch.no_grad()
def test_padding_and_other_rows_change_no_logit(maker: Any) -> None:
    mask, rows = made(maker), text_rows((14, 9))
    found = mask(rows.input_ids, rows.attention_mask)
    alone = mask(rows.input_ids[1:, :9], rows.attention_mask[1:, :9])
    torch.testing.assert_close(found[1, :9], alone[0], rtol=1e-5, atol=1e-6)
    dirty = rows.input_ids.masked_fill(~rows.attention_mask, 40)
    torch.testing.assert_close(
        mask(dirty, rows.attention_mask)[1, :9], alone[0], rtol=1e-5, atol=1e-6
    )


def test_learned_masks_leave_the_base_alone() -> None:
    for name in ("mlp", "cnn", "gru"):
        mask = made(CAUSAL[name])
        base: Any = mask._base[0]
        base.requires_grad_(True)
        mask(random_tokens(2, 6), torch.ones(2, 6, dtype=torch.bool)).sum().backward()
        assert all(p.grad is None for p in base.parameters())
        assert all(p.grad is not None for p in mask.parameters())
        names = {id(p) for p in base.parameters()}
        assert not names & {id(p) for p in mask.parameters()}
        base.requires_grad_(False)


@torch.no_grad()
def test_masks_start_on_their_budget() -> None:
    for name in ("mlp", "cnn", "gru"):
        mask: Any = made(CAUSAL[name])
        mask.start_with(0.3)
        ids = random_tokens(16, 20)
        kept = torch.sigmoid(mask(ids, torch.ones_like(ids, dtype=torch.bool))).mean()
        assert 0.2 < kept < 0.4


def test_learned_masks_by_their_threshold() -> None:
    mask: Any = made(CAUSAL["mlp"])
    ids = random_tokens(4, 20)
    real = torch.ones_like(ids, dtype=torch.bool)
    free = droppable(ids, real)
    p = torch.sigmoid(mask(ids, real)).detach()
    mask.threshold = float(p.median())
    assert torch.equal(mask.keep(ids, real, free) & free, (p >= mask.threshold) & free)
