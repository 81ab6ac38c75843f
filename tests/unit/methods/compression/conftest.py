"""A trained compressor, made once for the tests of this folder."""

from pathlib import Path

import pytest

from terse.methods.compression.model import Compressor
from terse.training.method import Inputs
from tiny_compression import compression


@pytest.fixture(scope="session")
def model(inputs: Inputs, trained: Path) -> Compressor:
    """The trained compressor, in eval mode."""
    return compression(inputs).load(trained / "model")
