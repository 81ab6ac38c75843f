"""What is saved with the weights, and which bases are refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from terse.errors import TerseError
from terse.methods.hierarchical.method import Hierarchical
from terse.methods.hierarchical.model import HierarchicalAutoencoder
from terse.methods.hierarchical.storage import load_hierarchical, save_model
from terse.training.method import Inputs
from tiny_hierarchical import LEVELS, rows, settings


def test_bases_of_another_shape_are_refused(text: Inputs, stage1: Path, tmp_path: Path) -> None:
    inputs = replace(text, base=stage1 / "model")
    other = settings(LEVELS[0], {**LEVELS[1], "codebook_size": 8}, base="stage1", tokenizer=None)
    with pytest.raises(TerseError, match="level 1, codebook_size 7 in the base, 8 here"):
        Hierarchical(other, inputs).build()
    fewer = settings(LEVELS[0], base="stage1", tokenizer=None)
    with pytest.raises(TerseError, match="num_levels is not the base's: 2 in the base, 1 here"):
        Hierarchical(fewer, inputs).build()
    contextual = settings(*LEVELS, expander_memory="contextual")
    torch.manual_seed(0)
    save_model(HierarchicalAutoencoder(contextual), tmp_path)
    bare = settings(*LEVELS, base="joint", tokenizer=None)
    with pytest.raises(TerseError, match="expander_memory is not the base's: contextual in the"):
        Hierarchical(bare, replace(text, base=tmp_path)).build()
    wider = settings({"dim": 24}, top=None, base="stage1", tokenizer=None)
    with pytest.raises(TerseError, match="have another shape"):
        Hierarchical(wider, inputs).build()


def test_settings_are_kept_with_the_weights(stage1: Path) -> None:
    content = json.loads((stage1 / "model" / "hierarchical.json").read_text())
    assert content["num_levels"] == 2
    model = load_hierarchical(stage1 / "model")
    assert not model.training
    with torch.inference_mode():
        assert len(model.encode(rows(20))) == 2
