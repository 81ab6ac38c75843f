"""Standardisation by running means."""

import torch

from terse.methods.hierarchical.running_norm import RunningNorm


def test_vectors_lose_what_all_have_in_common() -> None:
    x = 5.0 + torch.randn(400, 2, 8) * torch.linspace(0.1, 2, 8)
    norm = RunningNorm(2, 8).train()
    for part in x.split(100):  # in any parts
        norm.note(part)
    norm.after_step()
    y = norm(x)
    assert torch.allclose(y.mean(0), torch.zeros(2, 8), atol=1e-4)
    assert torch.allclose(y.std(0), torch.ones(2, 8), atol=1e-2)
    assert torch.equal(norm(x[:1]), y[:1])  # a vector does not see the others
    before = norm.mean.clone()
    norm.note(-x)
    norm.after_step()
    far = -norm.norm(x).mean(0)
    assert torch.allclose(norm.mean, before + 0.1 * (far - before), atol=1e-5)
    norm.after_step()  # nothing seen since
    assert torch.allclose(norm.mean, before + 0.1 * (far - before), atol=1e-5)
