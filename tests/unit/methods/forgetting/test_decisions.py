"""Decisions keep the budget and are never revised."""

import numpy as np
import pytest
import torch

from terse.errors import TerseError
from terse.methods.forgetting.decisions import Calibration, decide, dithered, droppable
from tiny_lms import random_tokens
from tiny_masks import CAUSAL, made


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
