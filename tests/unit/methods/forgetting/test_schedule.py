"""Two-step training: exploration with the base, then the mask."""

from pathlib import Path
from typing import Any

import pytest

from terse.config.methods import settings_of
from terse.methods.forgetting.schedule import phase_at
from terse.training.method import Inputs
from tiny_forgetting import SETTINGS, forgetting
from tiny_run import train_into


def test_two_step_explores_with_the_base_and_exploits_with_the_mask(inputs: Inputs) -> None:
    method = forgetting(
        inputs, schedule="two_step", exploration_epochs=[True, False], exploit_base_rate=0.1
    )
    model = method.build()
    rows = [method.training_rows()[i] for i in range(4)]
    batch = method.collate(rows)
    for step, learns in ((0, False), (5, True)):
        model.step = step
        model.zero_grad()
        method.loss(model, batch, method.count(batch))[0].backward()
        assert all((p.grad is not None) == learns for p in model.mask.parameters())
        assert all(p.grad is not None for p in model.lm.parameters())
    s = method.settings
    assert [phase_at(s, i).base_rate for i in (0, 2, 3, 5)] == [1.0, 1.0, 0.1, 0.1]
    assert phase_at(s, 0).entropy_beta == s.entropy_beta
    assert phase_at(s, 5).entropy_beta == pytest.approx(s.entropy_beta / 6)
    four: Any = settings_of(
        {**SETTINGS, "max_steps": 8, "exploration_epochs": [0.75, 0.5, 0.25, 0]}
    )
    assert [phase_at(four, i).epsilon for i in range(8)] == [0.75, 0.75, 0.5, 0.5, 0.25, 0.25, 0, 0]


def test_the_base_is_slowed_while_the_mask_learns(inputs: Inputs, tmp_path: Path) -> None:
    shared: dict[str, Any] = {
        "schedule": "two_step", "exploration_epochs": [False], "max_steps": 1, "warmup_steps": 0,
        "lr_schedule": "constant", "checkpoint_steps": [],
    }  # fmt: skip
    moved = []
    start = dict(forgetting(inputs).build().lm.named_parameters())
    for share in (0.1, 1.0, 0.0):
        method = forgetting(inputs, exploit_base_rate=share, **shared)
        train_into(tmp_path / str(share), method)
        after = dict(method.load(tmp_path / str(share) / "model").lm.named_parameters())
        moved.append(sum((after[n] - p).abs().sum().item() for n, p in start.items()))
    assert moved[0] / moved[1] == pytest.approx(0.1, rel=0.02)
    assert moved[2] == 0
