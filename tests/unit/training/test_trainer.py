"""The Trainer with our losses does what a bare loop does."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import set_seed

from terse.errors import TerseError
from terse.training.method import mean_loss
from terse.training.tracking import report_to
from tiny_training import TinyMethod, tiny_method, train_tiny


def bare_loop(method: TinyMethod) -> dict[str, torch.Tensor]:
    """Train by hand on the rows in their order: AdamW, clipping, summed loss over the targets."""
    s = method.settings
    set_seed(s.seed)
    model = method.build().train()
    optimizer = torch.optim.AdamW(method.parameter_groups(model), lr=s.lr, betas=(0.9, 0.95))
    rows = method.training_rows()
    for step in range(s.max_steps):
        size = s.batch_size * s.n_grad_loops
        chosen = [rows[i] for i in range(step * size, (step + 1) * size)]
        tokens = torch.stack([row["input_ids"] for row in chosen])
        logits = model(input_ids=tokens).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), s.grad_clip)
        optimizer.step()
        optimizer.zero_grad()
    return model.state_dict()


@pytest.mark.parametrize("n_grad_loops", [1, 3])
def test_equals_a_bare_loop(
    n_grad_loops: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import load_file

    from terse.training.trainer import MethodTrainer

    method = tiny_method(
        max_steps=3, batch_size=12 // n_grad_loops, n_grad_loops=n_grad_loops, warmup_steps=0,
        lr_schedule="constant", checkpoint_steps=[], grad_clip=0.5,
    )  # fmt: skip
    build = method.build

    def without_dropout() -> Any:
        model = build()
        for module in model.modules():
            if hasattr(module, "attention_dropout"):
                module.attention_dropout = 0.0
        return model

    method.build = without_dropout  # type: ignore[method-assign]
    in_order = torch.utils.data.SequentialSampler
    monkeypatch.setattr(
        MethodTrainer, "_get_train_sampler", lambda self, rows=None: in_order(self.train_dataset)
    )
    expected = bare_loop(method)
    found = load_file(train_tiny(tmp_path, method=method) / "model" / "model.safetensors")
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-6)


def test_validation_loss_is_the_mean_over_targets() -> None:
    method = tiny_method(batch_size=3)
    model = method.build().eval()
    rows = method.validation_rows()
    tokens = torch.stack([rows[i]["input_ids"] for i in range(len(rows))])
    with torch.no_grad():
        logits = model(input_ids=tokens).logits[:, :-1]
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    assert mean_loss(method, model, rows, "cpu") == pytest.approx(expected.item(), rel=1e-5)


def test_validation_reads_as_many_batches_as_asked() -> None:
    method = tiny_method(batch_size=2, max_val_loops=2)
    seen: list[int] = []

    class Rows(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return 100

        def __getitem__(self, index: int) -> Any:
            seen.append(index)
            return method.validation_rows()[0]

    assert math.isfinite(mean_loss(method, method.build().eval(), Rows(), "cpu"))
    assert seen == [0, 25, 50, 75]


def test_unknown_tracker_is_refused() -> None:
    assert report_to("none") == []
    with pytest.raises(TerseError, match="wandb is not installed: pip install wandb"):
        report_to("wandb")
