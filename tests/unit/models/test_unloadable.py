"""What can't be loaded as it is: each ends in one line that says what to do."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from terse.errors import TerseError
from terse.models.loading import dtype_of, load_model

SIZES = {
    "hidden_size": 128, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 40,
    "num_attention_heads": 2,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**SIZES)).save_pretrained(tmp_path / "m")
    return tmp_path / "m"


def changed(folder: Path, **values: Any) -> Path:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))
    return folder


def line_of(folder: Path, **options: Any) -> str:
    """The line that the refusal consists of."""
    with pytest.raises(TerseError) as raised:
        load_model(folder, **options)
    line = str(raised.value)
    assert "\n" not in line
    assert len(line) < 500
    assert str(folder) in line
    return line


@pytest.mark.parametrize(
    ("quantisation", "package"),
    [
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "bitsandbytes"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
        ({"quant_method": "gptq", "bits": 4}, "optimum"),
        ({"quant_method": "awq", "bits": 4}, "gptqmodel"),
        ({"quant_method": "compressed-tensors", "config_groups": {}}, "compressed-tensors"),
        ({"quant_method": "hqq", "nbits": 4, "group_size": 64}, "hqq"),
        ({"quant_method": "torchao", "quant_type": "int8_weight_only"}, "torchao"),
        ({"quant_method": "quanto", "weights": "int8"}, "quanto"),
    ],
)
def test_a_quantised_checkpoint_without_its_library_names_the_package(
    folder: Path, quantisation: dict[str, Any], package: str
) -> None:
    line = line_of(changed(folder, quantization_config=quantisation))
    assert "needs a package that is not installed" in line
    assert package in line.replace("compressed_tensors", "compressed-tensors")


@pytest.mark.parametrize(
    "values",
    [
        {"num_attention_heads": 3},  # no divisor of the width
        {"num_attention_heads": 0},
        {"hidden_size": "wide"},
        {"hidden_act": "nope"},
        {"rope_parameters": {"rope_type": "nope", "rope_theta": 1e4}},
    ],
)
def test_a_config_that_makes_no_model_is_one_line(folder: Path, values: dict[str, Any]) -> None:
    assert "cannot load the causal-lm" in line_of(changed(folder, **values))


def test_weights_that_are_no_weights_are_one_line(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"not safetensors at all")
    assert "cannot load the causal-lm" in line_of(folder)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"no pickle either")
    assert "cannot load the causal-lm" in line_of(folder)


def in_blocks_of_fp8(folder: Path) -> Path:
    """Store the matrices of the layers as DeepSeek-V3 does: float8, a scale for each block."""
    weights = load_file(folder / "model.safetensors")
    for name in [name for name in weights if "proj" in name]:
        blocks = weights[name].shape[0] // 128, weights[name].shape[1] // 128
        weights[name] = weights[name].to(torch.float8_e4m3fn)
        weights[f"{name}_scale_inv"] = torch.ones(blocks)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    quantisation = {
        "quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128],
    }  # fmt: skip
    return changed(folder, quantization_config=quantisation, dtype="bfloat16")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU computes in float8")
def test_fp8_blocks_are_dequantised_on_a_cpu_in_float32(folder: Path) -> None:
    tokens = torch.arange(10)[None]
    before = load_model(folder)(tokens).logits
    model = load_model(in_blocks_of_fp8(folder), dtype="float32")
    assert dtype_of(model) == "float32"
    torch.testing.assert_close(model(tokens).logits.float(), before, atol=0.05, rtol=0.1)
