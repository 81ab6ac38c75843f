"""Draws, their probabilities, credits and entropy, by naive loops."""

import itertools
import math

import pytest
import torch

from terse.methods.forgetting.policy import (
    behaviour,
    credits,
    draw,
    entropy,
    leave_one_out,
    log_behaviour,
    straight_through,
)


@pytest.mark.parametrize("epsilon", [0.0, 0.25, 0.9])
def test_log_behaviour_is_that_of_what_is_drawn(epsilon: float) -> None:
    logits = torch.tensor([[-40.0, -2.0, 0.0, 3.0, 40.0]]).double()
    q = behaviour(logits, epsilon, 0.3)
    for kept in (True, False):
        keep = torch.full((1, 1, 5), kept)
        found = log_behaviour(logits, keep, epsilon, 0.3)[0]
        expected = (q if kept else 1 - q).log()
        inner = slice(1, 4) if epsilon == 0 else slice(0, 5)
        torch.testing.assert_close(found[:, inner], expected[:, inner], rtol=1e-6, atol=1e-7)
        assert found.isfinite().all()
    free = torch.tensor([[False, True, True, True, True]])
    drawn = draw(logits.float(), free, torch.rand(1, 4000, 5), epsilon, 0.3)[0].float().mean(0)
    assert drawn[0] == 1
    torch.testing.assert_close(drawn[1:].double(), q[0, 1:], rtol=0, atol=0.04)


def test_leave_one_out_by_hand() -> None:
    rewards = torch.tensor([[1.0, 2.0, 6.0]])
    assert torch.allclose(leave_one_out(rewards), torch.tensor([[-3.0, -1.5, 4.5]]))


def test_credits_against_a_naive_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    scored = torch.rand(3, 12, generator=generator) < 0.6
    gains = torch.randn(3, 2, 12, generator=generator) * scored[:, None]
    for window in (None, 1, 3, 50):
        found = credits(gains, scored, window)
        for b, k, t in itertools.product(range(3), range(2), range(12)):
            later = [u for u in range(12) if scored[b, u] and (window is None or u > t)][:window]
            expected = sum(gains[b, k, u].item() for u in later) / max(len(later), 1)
            assert found[b, k, t].item() == pytest.approx(expected, abs=1e-5)


def test_entropy_is_that_of_coins() -> None:
    logits = torch.tensor([[0.0, 2.0, -30.0, 1.0]])
    free = torch.tensor([[True, True, True, False]])
    p = 1 / (1 + math.exp(-2))
    expected = math.log(2) - (p * math.log(p) + (1 - p) * math.log(1 - p))
    assert entropy(logits, free)[0].item() == pytest.approx(expected, abs=1e-5)


def test_straight_through_draws_the_policy_and_passes_a_gradient() -> None:
    logits = torch.tensor([[-2.0, 0.0, 1.5]]).expand(20000, -1).clone().requires_grad_(True)
    free = torch.ones_like(logits, dtype=torch.bool)
    gates = straight_through(logits, torch.rand(logits.shape), free)
    assert set(gates.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(
        gates.detach().mean(0), torch.sigmoid(logits[0]).detach(), rtol=0, atol=0.02
    )
    gates.sum().backward()
    assert logits.grad is not None
    assert (logits.grad > 0).all()
    held = straight_through(logits, torch.zeros(logits.shape), torch.zeros_like(free))
    assert (held == 1).all()
