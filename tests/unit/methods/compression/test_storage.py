"""What a checkpoint holds, and that another base's is refused."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from terse.errors import TerseError
from terse.methods.compression.storage import identity_of, load_vectors, save_vectors
from terse.training.method import Inputs
from tiny_compression import compression


def test_the_checkpoint_holds_what_is_trained_and_whose_it_is(
    trained: Path, inputs: Inputs
) -> None:
    assert {f.name for f in (trained / "model").iterdir()} == {
        "compressor.json", "model.safetensors",
    }  # fmt: skip
    tensors = load_file(trained / "model" / "model.safetensors")
    assert {name: tuple(t.shape) for name, t in tensors.items()} == {
        "vectors": (4, 16), "static": (3, 16),
    }  # fmt: skip
    content = json.loads((trained / "model" / "compressor.json").read_text())
    assert content["base"]["name"] == "tiny-base"
    assert len(content["base"]["digest"]) == 64
    before = load_file(trained / "checkpoints" / "step-0" / "model.safetensors")
    assert all(not torch.equal(before[name], tensors[name]) for name in tensors)
    model = compression(inputs).load(trained / "model")
    assert not model.training
    assert torch.equal(model.vectors, tensors["vectors"])


def test_another_base_is_refused(trained: Path, inputs: Inputs, tmp_path: Path) -> None:
    import shutil

    assert inputs.base is not None
    shutil.copytree(inputs.base, tmp_path / "other")
    weights = load_file(tmp_path / "other" / "model.safetensors")
    weights["model.norm.weight"][0] += 1e-3
    from safetensors.torch import save_file

    save_file(weights, tmp_path / "other" / "model.safetensors", metadata={"format": "pt"})
    other = Inputs(inputs.tokens, inputs.documents, base=tmp_path / "other")
    with pytest.raises(TerseError, match="was trained on 'tiny-base' with other weights"):
        compression(other).load(trained / "model")


def test_vectors_come_back_to_their_own_compressor_only(
    trained: Path, inputs: Inputs, tmp_path: Path
) -> None:
    method = compression(inputs)
    model = method.load(trained / "model")
    row = method.validation_rows()[0]
    with torch.no_grad():
        Z = model.compress(row["context"][None], row["context_mask"][None])
    name = identity_of(trained / "model")
    save_vectors(tmp_path / "z.safetensors", Z, name)
    assert torch.equal(load_vectors(tmp_path / "z.safetensors", name), Z)
    earlier = identity_of(trained / "checkpoints" / "step-0")
    assert earlier != name
    with pytest.raises(TerseError, match="were made by another compressor"):
        load_vectors(tmp_path / "z.safetensors", earlier)
    with pytest.raises(TerseError, match="no compressor in"):
        identity_of(tmp_path)
