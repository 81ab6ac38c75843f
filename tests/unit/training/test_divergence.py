"""The divergence of predictions against its definition."""

import pytest
import torch

from terse.training.divergence import kl_divergence


def test_divergence_is_that_of_its_definition() -> None:
    teacher, logits = torch.randn(5, 7), torch.randn(5, 7)
    p, q = (
        torch.distributions.Categorical(logits=teacher),
        torch.distributions.Categorical(logits=logits),
    )
    expected = torch.distributions.kl_divergence(p, q).sum()
    torch.testing.assert_close(kl_divergence(teacher, logits), expected)
    assert kl_divergence(teacher, teacher + 3.0).item() == pytest.approx(0, abs=1e-6)
