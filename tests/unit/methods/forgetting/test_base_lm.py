"""The base at rest."""

import torch
from torch import nn

from terse.methods.forgetting.base_lm import at_rest


def test_rewards_are_told_by_a_base_at_rest() -> None:
    lm = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)).train()
    lm[0].bias.requires_grad_(False)
    x = torch.ones(1, 4, requires_grad=True)
    with at_rest(lm):
        first, second = lm(x), lm(x)
    assert torch.equal(first, second)  # rollouts differ by their masks alone
    first.sum().backward()
    assert x.grad is not None
    assert lm[0].weight.grad is None
    assert lm.training
    assert [p.requires_grad for p in lm.parameters()] == [True, False]
