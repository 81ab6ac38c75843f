"""Tensors of safetensors files."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from terse.errors import TerseError
from terse.training.weights import read_tensors


def test_tensors_and_metadata_come_back(tmp_path: Path) -> None:
    path, x = tmp_path / "w.safetensors", torch.randn(2, 3)
    save_file({"x": x}, path, metadata={"whose": "ours"})
    tensors, metadata = read_tensors(path)
    assert tensors.keys() == {"x"}
    assert torch.equal(tensors["x"], x)
    assert metadata == {"whose": "ours"}


def test_a_missing_or_broken_file_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    with pytest.raises(TerseError, match=f"cannot read {path}"):
        read_tensors(path)
    path.write_bytes(b"cut off")
    with pytest.raises(TerseError, match=f"cannot read {path}"):
        read_tensors(path)
