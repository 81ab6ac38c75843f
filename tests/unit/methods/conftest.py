"""A tiny compressor and what it reads, made once."""

from pathlib import Path

import pytest
import torch

from terse.training.method import Inputs
from tiny_compression import compression, make_inputs
from tiny_run import train_into


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """A tiny base and its tokens."""
    torch.set_num_threads(1)
    return make_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="session")
def trained(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished training."""
    return train_into(tmp_path_factory.mktemp("trained"), compression(inputs))
