"""Fixtures of the tests of capture and cache."""

from pathlib import Path

import pytest
from transformers import LlamaForCausalLM

from tiny_llama import make_model, write_chunks


@pytest.fixture(scope="session")
def model() -> LlamaForCausalLM:
    return make_model()


@pytest.fixture
def chunks(tmp_path: Path) -> Path:
    return write_chunks(tmp_path / "chunks.h5")
