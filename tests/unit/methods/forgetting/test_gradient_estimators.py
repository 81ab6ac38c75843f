"""The estimator's mean is the gradient, by enumeration of all masks."""

import itertools
import math
from typing import Any

import pytest
import torch

from terse.config.methods import settings_of
from terse.methods.forgetting.gradient_estimators import Step, reinforce, standardised
from terse.methods.forgetting.masks import MLPForgetMask
from terse.methods.forgetting.model import Forgetter
from terse.methods.forgetting.packing import Rows
from terse.methods.forgetting.policy import behaviour, draw, log_behaviour, policy_loss
from terse.methods.forgetting.schedule import Phase
from tiny_forgetting import SETTINGS, language_model
from tiny_lms import random_tokens

N_FREE, T = 5, 11


def enumerated(epsilon: float, mode: str = "prefix") -> tuple[Any, ...]:
    """Return a model, a row, its free tokens, all masks, their rewards, and keep logits."""
    settings: Any = settings_of(
        SETTINGS | {"context_len": 7, "block_len": 4, "mode": mode, "n_rollouts": 2}
    )
    lm = language_model("llama")
    model = Forgetter(lm, MLPForgetMask(lm, 4), settings).eval()
    ids = random_tokens(1, T, seed=3)
    place = torch.arange(T)[None]
    rows = Rows(ids, place >= 0, place >= 7)
    free = (place >= 1) & (place <= N_FREE)
    masks = torch.ones(2**N_FREE, T, dtype=torch.bool)
    masks[:, 1 : N_FREE + 1] = torch.tensor(list(itertools.product([False, True], repeat=N_FREE)))
    many = Rows(
        *(x.expand(len(masks), -1) for x in (rows.input_ids, rows.attention_mask, rows.is_target))
    )
    with torch.no_grad():
        whole = model.score(rows, torch.ones_like(free))
        nats = model.score(many, masks).nats
    rewards = (whole.nats - nats).sum(1) / whole.scored.sum()  # (masks,)
    torch.manual_seed(4)
    logits = torch.randn(1, T) * 0.7
    phase = Phase(epsilon=epsilon, trains_mask=True, base_rate=1.0, entropy_beta=0.0)
    return model, rows, free, masks, rewards, logits, whole, phase


@pytest.mark.parametrize("epsilon", [0.0, 0.6])
def test_mean_of_the_estimator_is_the_exact_gradient(epsilon: float) -> None:
    model, rows, free, masks, rewards, logits, whole, phase = enumerated(epsilon)
    theta = logits.clone().requires_grad_(True)
    q = behaviour(theta, epsilon, model.settings.explored).double()
    chosen = torch.where(masks, q, 1 - q)[:, 1 : N_FREE + 1].prod(1)  # (masks,)
    assert chosen.sum().item() == pytest.approx(1)
    expected = -(chosen * rewards.double()).sum() / model.constant_length
    (exact,) = torch.autograd.grad(expected, theta)

    n = 3000
    torch.manual_seed(5)
    each = logits.expand(n, -1).clone().requires_grad_(True)
    many = Rows(*(x.expand(n, -1) for x in (rows.input_ids, rows.attention_mask, rows.is_target)))
    full = type(whole)(
        *(x.expand(n, -1) for x in (whole.nats, whole.scored, whole.hit)), whole.logits
    )
    step = Step(many, each, free.expand(n, -1), free.expand(n, -1), phase, full)
    loss, keep = reinforce(model, step, torch.rand(n, 2, T))
    (samples,) = torch.autograd.grad(loss, each)  # (n, T): one draw of the estimator each
    z = (samples.double().mean(0) - exact[0]) / (samples.double().std(0) / math.sqrt(n) + 1e-15)
    assert z[1 : N_FREE + 1].abs().max() < 4
    assert (samples[:, N_FREE + 1 :] == 0).all()
    assert exact[0, 1 : N_FREE + 1].abs().max() > 3 * samples.std(0).max() / math.sqrt(n)
    assert keep.shape == (n, T)

    # Without the others as a baseline the same mean is noisier.
    plain_keep = draw(each, step.free, torch.rand(n, 2, T), epsilon, model.settings.explored)
    index = (plain_keep[..., 1 : N_FREE + 1].long() * 2 ** torch.arange(N_FREE - 1, -1, -1)).sum(-1)
    raw = rewards[index][..., None].expand(-1, -1, T) + 0.5  # any constant: the mean stays
    log_q = log_behaviour(each, plain_keep, epsilon, model.settings.explored)
    loss = policy_loss(log_q, raw, step.credited, model.constant_length).sum()
    (noisy,) = torch.autograd.grad(loss, each)
    assert noisy.var(0)[1 : N_FREE + 1].min() > 2 * samples.var(0)[1 : N_FREE + 1].max()


def test_exploration_alone_gives_the_mask_no_gradient() -> None:
    logits = (torch.randn(4, 9) * 3).requires_grad_(True)
    keep = torch.rand(4, 2, 9) < 0.5
    log_q = log_behaviour(logits, keep, 1.0, 0.3)
    torch.testing.assert_close(log_q[keep], torch.full((int(keep.sum()),), math.log(0.7)))
    log_q.sum().backward()
    assert logits.grad is not None
    assert (logits.grad == 0).all()


def test_standardised_over_the_chosen_ones() -> None:
    values = torch.tensor([[9.0, 1.0, 3.0, 5.0]])
    chosen = torch.tensor([[False, True, True, True]])
    found = standardised(values, chosen)
    expected = math.sqrt(1.5)
    torch.testing.assert_close(found, torch.tensor([[0.0, -expected, 0.0, expected]]))
