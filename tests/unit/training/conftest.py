"""Fixtures for trainings of the tiny method."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tiny_training import train_tiny


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training that nothing interrupted."""
    torch.set_num_threads(1)
    return train_tiny(tmp_path_factory.mktemp("undisturbed"))


@pytest.fixture
def weights() -> Callable[[Path], dict[str, bytes]]:
    """Return a function that gives the bytes of all weights of a training, by name."""

    def read(folder: Path) -> dict[str, bytes]:
        files = sorted(folder.glob("**/model.safetensors"))
        return {str(f.relative_to(folder)): f.read_bytes() for f in files}

    return read
