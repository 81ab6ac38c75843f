"""PEFT adapters: merged or separate, they give the model that was trained."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file

from script_chain import run_script
from terse.errors import TerseError
from terse.hub.download import weights_identity
from terse.models.adapters import attach
from terse.models.loading import load_model
from terse.models.modules import select_modules
from tiny_gguf import tiny_llama

TOKENS = torch.arange(3, 43)[None]
OPTIONS = {"kind": "causal-lm", "trust_remote_code": False}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    tiny_llama().save_pretrained(tmp_path / "base")
    (tmp_path / "base" / "tokenizer.json").write_text('{"of": "base"}')
    return tmp_path / "base"


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    torch.manual_seed(1)
    config = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    get_peft_model(tiny_llama(), config).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def expected(base: Path, adapter: Path) -> torch.Tensor:
    """The logits by the formula: W + B A alpha / r in each adapted matrix."""
    model, config = load_model(base), json.loads((adapter / "adapter_config.json").read_text())
    weights = load_file(adapter / "adapter_model.safetensors")
    for name in [name for name in weights if "lora_A" in name]:
        target = name.removeprefix("base_model.model.").replace(".lora_A", "")
        update = weights[name.replace("lora_A", "lora_B")] @ weights[name]
        model.get_parameter(target).add_(update * config["lora_alpha"] / config["r"])
    return model(TOKENS).logits


@pytest.mark.parametrize("merge", [True, False])
def test_base_and_adapter_are_one_model(tmp_path, base, adapter, merge):
    folder = tmp_path / "made"
    run_script("apply_adapter", adapter=adapter, base=base, folder=folder, merge=merge, **OPTIONS)
    found = load_model(folder)
    assert torch.allclose(found(TOKENS).logits, expected(base, adapter), atol=2e-4)
    assert not torch.allclose(found(TOKENS).logits, load_model(base)(TOKENS).logits, atol=0.1)
    assert any("lora" in name for name, _ in found.named_parameters()) is not merge
    assert not any(parameter.requires_grad for parameter in found.parameters())
    modules = select_modules(found, "all", ["attn", "mlp", "block"], ["norm"], None)
    assert modules["attn-l1"].path == "model.layers.1.self_attn"
    assert (folder / "tokenizer.json").read_text() == '{"of": "base"}'
    record = json.loads((folder / "run.json").read_text())
    assert weights_identity(base) in weights_identity(folder)
    assert record["inputs"].keys() == {"base", "adapter"}


ON_TIED: dict[str, dict[str, Any]] = {
    "embeddings": {"target_modules": ["q_proj", "embed_tokens"]},
    "embeddings-and-head": {"target_modules": ["embed_tokens"], "ensure_weight_tying": True},
    "head": {"target_modules": ["lm_head"]},
    "whole-embeddings": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    "rows": {"target_modules": ["q_proj"], "trainable_token_indices": [5, 6]},
}


@pytest.mark.filterwarnings("ignore::UserWarning:peft")
@pytest.mark.parametrize("kind", ON_TIED)
def test_an_adapter_of_tied_weights_is_merged_as_it_was_trained(tmp_path, kind):
    base, adapter, folder = (tmp_path / name for name in ("base", "adapter", "made"))
    tiny_llama(tie_word_embeddings=True).save_pretrained(base)
    peft = get_peft_model(load_model(base), LoraConfig(r=4, **ON_TIED[kind])).eval()
    torch.manual_seed(1)
    for parameter in (p for p in peft.parameters() if p.requires_grad):
        parameter.data += 0.2 * torch.randn(parameter.shape)
    trained = peft(TOKENS).logits
    peft.save_pretrained(adapter)
    run_script("apply_adapter", adapter=adapter, base=base, folder=folder, merge=True, **OPTIONS)
    assert not torch.allclose(trained, load_model(base)(TOKENS).logits, atol=0.1)
    assert torch.allclose(load_model(folder)(TOKENS).logits, trained, atol=2e-4)


def test_a_model_beside_an_adapter_is_loaded_as_it_lies(base, adapter, caplog):
    plain = load_model(base)(TOKENS).logits
    for path in adapter.glob("adapter_*"):
        path.rename(base / path.name)
    assert torch.equal(load_model(base)(TOKENS).logits, plain)
    assert "the adapter next to the model is not applied" in caplog.text


def test_what_does_not_fit_is_refused_in_one_line(tmp_path, base, adapter):
    weights = load_file(adapter / "adapter_model.safetensors")
    renamed = {k.replace(".model.layers", ".layers"): v for k, v in weights.items()}
    fewer = {k: v for k, v in weights.items() if "layers.1" not in k}
    wider = {k: torch.zeros(*v.shape[:-1], 2 * v.shape[-1]) for k, v in weights.items()}
    for content, words in (
        (renamed, "for another model or incomplete: it lacks 8 tensors"),
        (fewer, "it lacks 4 tensors, such as"),
        ({**weights, "base_model.model.other.lora_A.weight": torch.zeros(1)}, "beyond what"),
        (wider, "does not fit its base: .*size"),
    ):
        save_file(content, adapter / "adapter_model.safetensors")
        with pytest.raises(TerseError, match=words) as raised:
            attach(load_model(base), adapter, merge=True)
        assert "\n" not in str(raised.value)
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(TerseError, match="does not fit its base"):
        attach(load_model(base), adapter, merge=True)
    with pytest.raises(TerseError, match="holds an adapter and no model"):
        load_model(adapter)


def test_a_prompt_is_no_model(tmp_path, base):
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    get_peft_model(tiny_llama(), config).save_pretrained(tmp_path / "prompt")
    with pytest.raises(TerseError, match="prompt tuning: it adds positions, not weights"):
        attach(load_model(base), tmp_path / "prompt", merge=True)


def test_a_base_without_its_head_says_so(base):
    weights = load_file(base / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(TerseError, match="have no LM head: set kind: encoder"):
        load_model(base)
    assert load_model(base, kind="encoder")(TOKENS).last_hidden_state.shape == (1, 40, 64)
