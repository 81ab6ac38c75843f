"""Models from local folders: what loads, and what each kind of damage says."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertLMHeadModel,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlavaConfig,
    LlavaForConditionalGeneration,
    MptConfig,
    MptForCausalLM,
    RobertaConfig,
    RobertaForCausalLM,
    XLNetConfig,
    XLNetLMHeadModel,
)

from terse.errors import TerseError
from terse.models.loading import load_model, max_context
from terse.models.modules import select_modules

CONFIG = {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 40, "n_positions": 24}
CONFIG |= {"bos_token_id": 1, "eos_token_id": 2}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(**CONFIG)).save_pretrained(tmp_path / "m")
    return tmp_path / "m"


def test_a_loaded_model_is_the_saved_one_ready_to_measure(folder):
    torch.manual_seed(0)
    saved = GPT2LMHeadModel(GPT2Config(**CONFIG)).eval()
    model = load_model(folder)
    tokens = torch.arange(10)[None]
    assert torch.equal(model(tokens).logits, saved(tokens).logits)
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert max_context(model) == 24


def test_dtype_and_attention_are_the_ones_asked_for(folder):
    assert load_model(folder, dtype="bfloat16").dtype == torch.bfloat16
    assert load_model(folder, dtype="auto").dtype == torch.float32
    GPT2LMHeadModel(GPT2Config(**CONFIG)).half().save_pretrained(folder)
    assert load_model(folder, dtype="auto").dtype == torch.float16
    assert load_model(folder).dtype == torch.float32
    eager = load_model(folder, attn_implementation="eager")
    assert eager.config._attn_implementation == "eager"
    spread = load_model(folder, device_map="auto")
    assert spread.device.type in ("cpu", "cuda")


def test_random_weights_are_the_architectures_own_draw_from_the_seed(folder):
    state = torch.random.get_rng_state()
    drawn, again = (load_model(folder, random_weights=3) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(3)
    expected = GPT2LMHeadModel(GPT2Config(**CONFIG)).eval()
    tokens = torch.arange(10)[None]
    assert torch.equal(drawn(tokens).logits, expected(tokens).logits)
    assert torch.equal(drawn(tokens).logits, again(tokens).logits)
    for other in (load_model(folder), load_model(folder, random_weights=4)):
        assert not torch.allclose(drawn(tokens).logits, other(tokens).logits)
    assert not drawn.training
    assert not any(parameter.requires_grad for parameter in drawn.parameters())
    half = load_model(folder, random_weights=3, dtype="bfloat16", attn_implementation="eager")
    assert half.dtype == torch.bfloat16
    assert half.config._attn_implementation == "eager"
    assert load_model(folder, random_weights=0, dtype="auto").dtype == torch.float32


def test_weights_split_over_files_load_and_a_missing_part_is_named(folder):
    whole = load_model(folder)
    (folder / "model.safetensors").unlink()
    whole.save_pretrained(folder, max_shard_size="20KB")
    parts = sorted(folder.glob("model-*.safetensors"))
    assert len(parts) > 1
    tokens = torch.arange(10)[None]
    assert torch.equal(load_model(folder)(tokens).logits, whole(tokens).logits)
    parts[0].unlink()
    with pytest.raises(TerseError, match=f"incomplete: no {parts[0].name}"):
        load_model(folder)


def test_missing_and_half_written_folders(folder):
    with pytest.raises(TerseError, match="the folder does not exist"):
        load_model(folder / "nowhere")
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    os.truncate(weights, len(content) // 2)
    with pytest.raises(TerseError, match=r"cannot load the causal-lm in .*"):
        load_model(folder)
    weights.unlink()
    with pytest.raises(
        TerseError, match=r"incomplete: no model\.safetensors or pytorch_model\.bin"
    ):
        load_model(folder)
    weights.write_bytes(content)
    (folder / "config.json").write_text('{"model_type": "gp')
    with pytest.raises(TerseError, match="is not JSON"):
        load_model(folder)
    (folder / "config.json").unlink()
    with pytest.raises(TerseError, match=r"has no config\.json"):
        load_model(folder)


def test_weights_that_would_be_drawn_at_random_are_refused(folder):
    weights = load_file(folder / "model.safetensors")
    lost = weights.pop("transformer.h.1.mlp.c_fc.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        TerseError, match=r"lack 1 tensors .*'transformer\.h\.1\.mlp\.c_fc\.weight'"
    ):
        load_model(folder)
    weights["transformer.h.1.mlp.c_fc.weight"] = lost[:, :5].contiguous()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TerseError, match=r"cannot load|disagree"):
        load_model(folder)


def test_unknown_settings_name_the_nearest(folder):
    with pytest.raises(TerseError, match="did you mean 'float16'"):
        load_model(folder, dtype="flaot16")
    with pytest.raises(TerseError, match="did you mean 'causal-lm'"):
        load_model(folder, kind="causal_lm")  # pyright: ignore[reportArgumentType]


def test_code_in_the_folder_runs_only_when_allowed(folder):
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "odd", "auto_map": {"AutoConfig": "odd.OddConfig"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "odd.py").write_text("raise SystemExit('this code must not run')\n")
    with pytest.raises(TerseError, match="trust_remote_code"):
        load_model(folder)


def test_an_encoder_loads_without_its_pooler(tmp_path, caplog):
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        vocab_size=40,
    )  # fmt: skip
    saved = BertForMaskedLM(config).eval()
    saved.save_pretrained(tmp_path)
    model = load_model(tmp_path, kind="encoder")
    assert isinstance(model, BertModel)
    tokens = torch.arange(10)[None]
    with torch.no_grad():
        expected = saved.bert(tokens).last_hidden_state
    assert torch.equal(model(tokens).last_hidden_state, expected)
    assert "no pooler" in caplog.text


TINY_BERT = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24,
    "vocab_size": 40,
}  # fmt: skip


def test_a_model_that_sees_the_future_is_no_causal_lm(tmp_path):
    torch.manual_seed(0)
    BertLMHeadModel(BertConfig(**TINY_BERT)).save_pretrained(tmp_path / "both-ways")
    with pytest.raises(TerseError, match="set kind: encoder"):
        load_model(tmp_path / "both-ways")
    BertLMHeadModel(BertConfig(**TINY_BERT, is_decoder=True)).save_pretrained(tmp_path / "causal")
    assert load_model(tmp_path / "causal").config.is_decoder


def test_positions_are_as_many_as_the_table_has_rows_to_use():
    sizes = TINY_BERT | {"max_position_embeddings": 66, "pad_token_id": 1}
    assert max_context(RobertaForCausalLM(RobertaConfig(**sizes, is_decoder=True)).eval()) == 64
    assert max_context(BertModel(BertConfig(**sizes)).eval()) == 66
    mpt = MptConfig(d_model=16, n_heads=2, n_layers=2, vocab_size=40, max_seq_len=32)
    assert max_context(MptForCausalLM(mpt).eval()) == 32
    xlnet = XLNetConfig(d_model=16, n_layer=2, n_head=2, d_inner=24, vocab_size=40)
    assert max_context(XLNetLMHeadModel(xlnet).eval()) is None


def test_weights_of_more_layers_than_the_config_says_are_refused(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"n_layer": 1}))
    with pytest.raises(TerseError, match="says 1 layers, but the weights have more"):
        load_model(folder)


def test_an_architecture_that_transformers_does_not_know_is_one_line(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "clip"}))
    with pytest.raises(TerseError, match="has no causal-lm for the architecture of"):
        load_model(folder)


def test_the_text_part_of_a_vision_language_model_is_a_causal_lm(tmp_path):
    torch.manual_seed(0)
    text = {
        "model_type": "llama", "hidden_size": 16, "num_hidden_layers": 2, "vocab_size": 40,
        "num_attention_heads": 2, "intermediate_size": 24,
    }  # fmt: skip
    vision = {
        "model_type": "clip_vision_model", "hidden_size": 16, "num_hidden_layers": 3,
        "num_attention_heads": 2, "intermediate_size": 64, "image_size": 8, "patch_size": 4,
    }  # fmt: skip
    config = LlavaConfig(text_config=text, vision_config=vision, image_token_index=39)
    LlavaForConditionalGeneration(config).save_pretrained(tmp_path)
    model = load_model(tmp_path)
    assert isinstance(model, LlavaForConditionalGeneration)
    assert list(select_modules(model, "all", ["attn", "mlp"], ["norm"])) == [
        "attn-l0", "mlp-l0", "attn-l1", "mlp-l1", "norm",
    ]  # fmt: skip
