"""Byte corpora, trained stages and random models, made once for the tests of this folder."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from terse.methods.hierarchical.codes import encode_corpus
from terse.methods.hierarchical.method import Hierarchical
from terse.methods.hierarchical.model import HierarchicalAutoencoder
from terse.methods.hierarchical.storage import load_hierarchical
from terse.training.method import Inputs
from tiny_hierarchical import KINDS, LEVELS, byte_inputs, model, settings
from tiny_run import train_into


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    torch.set_num_threads(1)
    return byte_inputs(tmp_path_factory.mktemp("bytes"))


@pytest.fixture(scope="session")
def stage1(text: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished first stage of two levels."""
    folder = tmp_path_factory.mktemp("stage1")
    return train_into(folder, Hierarchical(settings(*LEVELS, top=None, n_grad_loops=2), text))


@pytest.fixture(scope="session")
def second(text: Inputs, stage1: Path) -> Hierarchical:
    """A second stage on it, its codes cached."""
    assert text.tokens is not None
    codes = stage1 / "codes.h5"
    model = load_hierarchical(stage1 / "model")
    encode_corpus(model, text.tokens, codes, device="cpu", batch_size=5)
    inputs = replace(text, base=stage1 / "model", codes=codes)
    return Hierarchical(settings(*LEVELS, base="stage1", tokenizer=None), inputs)


@pytest.fixture(params=KINDS, scope="session")
def built(request: pytest.FixtureRequest) -> HierarchicalAutoencoder:
    torch.set_num_threads(1)
    kind = dict(KINDS[request.param])
    return model(*kind.pop("levels", ({},)), **kind)
