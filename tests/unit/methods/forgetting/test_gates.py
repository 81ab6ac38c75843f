"""Gates between dropping and keeping."""

import pytest
import torch

from terse.methods.forgetting.gates import gated_nats
from terse.methods.forgetting.model import all_targets
from terse.methods.forgetting.modes import score
from tiny_forgetting import ARCHITECTURES, language_model, random_keep, text_rows


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gates_of_zero_and_one_are_drop_and_identity(architecture: str) -> None:
    lm, rows = language_model(architecture), text_rows()
    keep = random_keep(rows) | rows.is_target
    keep[:, 7:] = True
    with torch.no_grad():
        for chosen in (torch.ones_like(keep), keep):
            expected = score(lm, rows, chosen, "prefix").nats
            found = gated_nats(lm, rows, chosen.float())
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        expected = score(lm, all_targets(rows), keep, "kv").nats
        found = gated_nats(lm, all_targets(rows), keep.float())
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    gates = keep.float().requires_grad_(True)
    (slope,) = torch.autograd.grad(gated_nats(lm, rows, gates).sum(), gates)
    assert slope.isfinite().all()
    assert (slope[~keep & rows.is_context] != 0).any()  # a dropped token can come back


def test_slope_of_a_gate_is_that_of_the_loss() -> None:
    lm = language_model("llama").double()
    rows = text_rows((10,), block=3)
    gates = torch.full((1, 10), 0.7, dtype=torch.double)
    with torch.no_grad():

        def nats(t: int, step: float) -> float:
            moved = gates.clone()
            moved[0, t] += step
            return gated_nats(lm, rows, moved).sum().item()

        expected = [(nats(t, 1e-2) - nats(t, -1e-2)) / 2e-2 for t in range(7)]
    gates.requires_grad_(True)
    (slope,) = torch.autograd.grad(gated_nats(lm, rows, gates).sum(), gates)
    torch.testing.assert_close(
        slope[0, :7], torch.tensor(expected, dtype=torch.double), rtol=2e-2, atol=2e-3
    )
