"""Trained models, made once for the tests of this folder."""

from pathlib import Path
from typing import Any

import pytest

from terse.training.method import Inputs
from tiny_forgetting import forgetting
from tiny_run import train_into


@pytest.fixture(scope="session")
def published(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The method and its trained model."""
    folder = train_into(tmp_path_factory.mktemp("published"), forgetting(inputs, max_steps=3))
    method = forgetting(inputs, max_steps=3)
    return method, method.load(folder / "model")


@pytest.fixture(scope="session")
def trained_forgetter(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished training."""
    return train_into(tmp_path_factory.mktemp("forgetter"), forgetting(inputs))
