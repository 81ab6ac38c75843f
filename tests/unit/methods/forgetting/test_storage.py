"""What is published: a language model, its mask, and thresholds of the training text."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from terse.errors import TerseError
from terse.methods.forgetting.evaluation import rows_of
from terse.models.loading import load_model
from terse.training.method import Inputs
from tiny_forgetting import forgetting


def test_saved_thresholds_are_those_of_training_text(published: Any, tmp_path: Path) -> None:
    method, model = published
    found = method.calibrate(model)
    torch.testing.assert_close(found.quantiles, model.calibration.quantiles, rtol=1e-5, atol=1e-5)
    assert (found.quantiles.diff() >= 0).all()


def test_what_is_published_is_a_language_model_and_its_mask(
    trained_forgetter: Path, inputs: Inputs
) -> None:
    assert load_model(trained_forgetter / "model").config.vocab_size == 300
    method = forgetting(inputs)
    model, before = method.load(trained_forgetter / "model"), method.build()
    assert not model.training
    mask = load_file(trained_forgetter / "model" / "mask.safetensors")
    assert set(mask) == {f"mask.{name}" for name, _ in model.mask.named_parameters()} | {
        "quantiles"
    }
    assert not torch.equal(model.mask.last.weight, before.mask.last.weight)  # type: ignore[union-attr]
    changed = [
        not torch.equal(a, b)
        for a, b in zip(model.lm.parameters(), before.lm.parameters(), strict=True)
    ]
    assert all(changed)
    again = method.load(trained_forgetter / "model")
    rows = rows_of([method.validation_rows()[i] for i in range(6)], "cpu")
    decisions = [m.decisions(rows, "prefix", 0.4) for m in (model, again)]
    assert torch.equal(*decisions)
    assert not decisions[0].all()
    with pytest.raises(TerseError, match="has other settings"):
        forgetting(inputs, mask="rnn").load(trained_forgetter / "model")
