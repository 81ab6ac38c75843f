"""Bases and masks that exist in Python are trained in place; the example of the page runs."""

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from terse.corpora.tokenizers import load_tokenizer
from terse.errors import TerseError
from terse.methods.forgetting import two_step_reinforce_model
from terse.methods.forgetting.masks import MLPForgetMask
from terse.models.loading import load_model
from terse.training.method import Inputs

PAGE = Path(__file__).parents[4] / "docs" / "use" / "forgetting.md"


def texts_of(inputs: Inputs) -> list[str]:
    return pd.read_parquet(inputs.documents)["text"].tolist()  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_example_trains_what_it_is_given(inputs: Inputs) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (example,) = [block for block in blocks if "reinforce_model" in block]
    names: dict[str, Any] = {"folder": inputs.base, "texts": texts_of(inputs)}
    exec(example, names)
    model, base, mask = names["model"], names["base"], names["mask"]
    assert model.lm is base
    assert model.mask is mask
    plain = load_model(inputs.base)  # type: ignore[arg-type]
    pairs = zip(base.parameters(), plain.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in pairs)
    assert model.calibration is not None  # its decisions are on budget


def test_two_steps_train_in_turn(inputs: Inputs, tmp_path: Path) -> None:
    base, tokenizer = load_model(inputs.base), load_tokenizer(inputs.base)  # type: ignore[arg-type]
    mask = MLPForgetMask(base, hidden_dim=8)
    before = mask.last.weight.detach().clone()
    given: dict[str, Any] = {
        "tokenizer": tokenizer, "texts": texts_of(inputs), "n_train_loops": 1, "context_len": 20,
        "block_len": 8, "batch_size": 2, "n_rollouts": 2, "log_interval": 1, "max_val_loops": 1,
    }  # fmt: skip
    two_step_reinforce_model(
        base, mask, forget_p=0.5, exploration_epochs=[True, False], out=tmp_path, **given
    )
    assert not torch.equal(mask.last.weight, before)
    rows = pd.read_csv(tmp_path / "history.csv").query("split == 'train'")
    assert rows["exploration"].tolist() == [1.0, 0.0]
    del given["tokenizer"]  # that of the folder
    model = two_step_reinforce_model(base, mask, exploration_epochs=[False], **given)
    assert model.lm is base
    with pytest.raises(TerseError, match="windows of 208 tokens are longer"):
        two_step_reinforce_model(base, mask, **given | {"context_len": 200})
    with pytest.raises(TerseError, match="no run has a mask Linear; allowed: IdentityMask"):
        two_step_reinforce_model(base, torch.nn.Linear(1, 1), **given)  # type: ignore[arg-type]
