"""Masks see what they say they see; decisions keep the budget and are never revised."""

from typing import Any

import numpy as np
import pytest
import torch

from terse.errors import TerseError
from terse.methods.forgetting.baselines import (
    RecencyMask,
    SaliencyMask,
    SinkRecencyMask,
    SurprisalMask,
)
from terse.methods.forgetting.decisions import Calibration, decide, dithered, droppable
from terse.methods.forgetting.gates import gated_nats
from terse.methods.forgetting.masks import (
    CNNMLPForgetMask,
    IdentityMask,
    Mask,
    MLPForgetMask,
    NormForgetMask,
    RandomForgetMask,
    RNNForgetMask,
)
from terse.methods.forgetting.modes import check_sight
from tiny_forgetting import language_model, text_rows
from tiny_lms import VOCAB, random_tokens

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
    torch.manual_seed(1)
    return maker().eval()


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


def test_protected_tokens_are_never_dropped() -> None:
    ids = torch.tensor([[1, 5, 6, 2, 7, 8, 9, 0], [1, 5, 6, 0, 0, 0, 0, 0]])
    real = torch.tensor([[1, 1, 1, 1, 1, 1, 1, 0], [1, 1, 0, 0, 0, 0, 0, 0]]).bool()
    free = droppable(ids, real, special_ids=(1, 2), protect_first=2, protect_last=1)
    assert free.int().tolist() == [[0, 0, 1, 0, 1, 1, 0, 0], [0] * 8]
    lowest = torch.full(ids.shape, -9.0)
    for rule in ("sample", "threshold", "calibrated", "topk"):
        keep = decide(lowest, rule, droppable=free, forget_p=1.0)
        if rule != "sample":
            assert torch.equal(~keep, free)  # f = 1: the protected ones only
        assert (keep & real).any(1).all()
    assert decide(lowest, "identity", droppable=free).all()
    assert decide(lowest, "topk", droppable=free, forget_p=0.0).all()
    with pytest.raises(TerseError, match="topk"):
        decide(lowest, "top", droppable=free)


def test_topk_keeps_the_highest_and_exactly_so_many() -> None:
    logits = torch.tensor([[0.0, 5.0, 1.0, 4.0, 2.0, 3.0]])
    free = torch.tensor([[False, True, True, True, True, True]])
    keep = decide(logits, "topk", droppable=free, forget_p=0.4)
    assert keep.int().tolist() == [[1, 1, 0, 1, 0, 1]]
    same = decide(torch.zeros(4, 21), "topk", droppable=torch.ones(4, 21).bool(), forget_p=0.3)
    assert ((~same).sum(1) == 6).all()


@pytest.mark.parametrize("kind", ["spread", "few values"])
def test_calibrated_thresholds_keep_the_budget_on_new_text(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)

    def logits(n: int) -> torch.Tensor:
        if kind == "spread":
            return torch.randn(n, 200, generator=generator) * 3
        return torch.randint(0, 3, (n, 200), generator=generator).float()

    free = torch.ones(128, 200, dtype=torch.bool)
    calibration = Calibration.of(logits(128), free)
    held_out = logits(128)
    for f in (0.1, 0.25, 0.337, 0.5, 0.75, 0.9):
        keep = decide(held_out, "calibrated", droppable=free, threshold=calibration.threshold(f))
        dropped = 1 - keep.float().mean().item()
        sigma = np.sqrt(f * (1 - f) / keep.numel())
        assert abs(dropped - f) < 3 * sigma + 0.01
    assert decide(held_out, "calibrated", droppable=free, threshold=calibration.threshold(0)).all()
    none = decide(held_out, "calibrated", droppable=free, threshold=calibration.threshold(1))
    assert not none.any()


def test_decisions_never_change_when_text_is_appended() -> None:
    mask = made(CAUSAL["gru"])
    ids = random_tokens(2, 30)
    with torch.no_grad():
        whole = mask(ids, torch.ones(2, 30, dtype=torch.bool))
        threshold = float(dithered(whole).median())
        kept = decide(whole, "calibrated", droppable=torch.ones(2, 30).bool(), threshold=threshold)
        assert 0 < kept.float().mean() < 1
        for t in range(1, 30):
            part = mask(ids[:, :t], torch.ones(2, t, dtype=torch.bool))
            free = torch.ones(2, t).bool()
            some = decide(part, "calibrated", droppable=free, threshold=threshold)
            assert torch.equal(some, kept[:, :t])


@torch.no_grad()
def test_baselines_by_hand() -> None:
    ids = torch.tensor([[1, 5, 6, 7, 8, 9, 10, 11, 0, 0]])
    real = ids != 0
    free = droppable(ids, real, (), 1, 1)

    def kept(mask: Mask, f: float) -> list[int]:
        keep = decide(mask(ids, real), "topk", droppable=free, forget_p=f) & real
        return ids[0][keep[0]].tolist()

    assert kept(RecencyMask(), 0.5) == [1, 8, 9, 10, 11]
    assert kept(SinkRecencyMask(), 0.5) == [1, 5, 6, 7, 11]
    assert kept(SinkRecencyMask(), 0.34) == [1, 5, 6, 7, 10, 11]
    counts = torch.zeros(VOCAB)
    counts[5], counts[7], counts[9] = 50, 40, 30
    assert kept(SurprisalMask(counts), 0.5) == [1, 6, 8, 10, 11]
    norms: Any = LM.get_input_embeddings()
    order = norms.weight[ids[0, 1:7]].norm(dim=-1).argsort()
    expected = {1, 11, *ids[0, 1:7][order[3:]].tolist()}
    assert set(kept(NormForgetMask(LM), 0.5)) == expected
    assert kept(IdentityMask(), 0.0) == ids[0][real[0]].tolist()
    own = NormForgetMask(LM, retain_percentage=0.5)
    assert set(ids[0][(own.keep(ids, real, free) & real)[0]].tolist()) == expected
    random = RandomForgetMask(0.5)
    assert (~random.keep(ids, real, free)).sum() == 3
    first, again = (RandomForgetMask(0.5, seed=3)(ids, real) for _ in range(2))
    assert torch.equal(first, again)


def test_saliency_is_what_a_gate_costs() -> None:
    rows = text_rows((14, 14), block=4)
    found = SaliencyMask(LM).logits(rows, rows.is_context)
    assert found.shape == rows.input_ids.shape
    with torch.no_grad():
        for t in range(3, 9):
            gates = torch.ones(rows.input_ids.shape)
            whole = gated_nats(LM, rows, gates).sum(1)
            gates[:, t] = 0.98
            rise = (gated_nats(LM, rows, gates).sum(1) - whole) / 0.02
            torch.testing.assert_close(found[:, t], rise, rtol=0.2, atol=0.1)
    assert found.abs().max() > 0.2
    torch.testing.assert_close(SaliencyMask(LM)(rows.input_ids, rows.is_context), found)


def test_learned_masks_by_their_threshold() -> None:
    mask: Any = made(CAUSAL["mlp"])
    ids = random_tokens(4, 20)
    real = torch.ones_like(ids, dtype=torch.bool)
    free = droppable(ids, real)
    p = torch.sigmoid(mask(ids, real)).detach()
    mask.threshold = float(p.median())
    assert torch.equal(mask.keep(ids, real, free) & free, (p >= mask.threshold) & free)
