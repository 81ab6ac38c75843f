"""GGUF files: what is read is the model that was written; what can't be read says why."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from script_chain import run_script
from terse.corpora.tokenizers import load_tokenizer
from terse.errors import TerseError
from terse.models.gguf import convert_gguf
from terse.models.loading import load_model
from tiny_gguf import TEXTS, tiny_llama, tokenizer, write_gguf

TOKENS = torch.arange(3, 43)[None]
LLAMA3 = {"rope_type": "llama3", "rope_theta": 10_000.0, "factor": 8.0, "low_freq_factor": 1.0,
          "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def divisors(model) -> np.ndarray:
    """What llama.cpp writes of a scaled model: the plain frequencies over its own."""
    plain = tiny_llama().model.rotary_emb.inv_freq
    return (plain / model.model.rotary_emb.inv_freq).numpy()


def test_the_dequantised_model_is_the_rounded_one(tmp_path, folder):
    model = tiny_llama()
    before = model(TOKENS).logits
    about = convert_gguf(write_gguf(tmp_path / "tiny.gguf", model), folder)
    found = load_model(folder)
    assert torch.allclose(found(TOKENS).logits, model(TOKENS).logits, atol=1e-5)
    assert not torch.allclose(before, model(TOKENS).logits, atol=1e-3)  # Q8_0 has rounded it
    assert about["quantisation"] == "Q8_0"
    assert about["tensor_types"]["F32"] == 5 * 64  # the norms
    assert (about["architecture"], about["licence"], about["name"]) == (
        "llama",
        "apache-2.0",
        "Tiny",
    )
    assert found.dtype == torch.float32
    assert not hasattr(found.config, "quantization_config")


def test_the_tokenizer_cuts_as_the_one_that_was_written(tmp_path, folder):
    convert_gguf(write_gguf(tmp_path / "tiny.gguf", tiny_llama()), folder)
    found, written = load_tokenizer(folder), tokenizer()
    for text in [*TEXTS, "unseen words, Ünïcödé\n\ttabs"]:
        assert found(text).input_ids == written.encode(text).ids
        assert found.decode(found(text).input_ids) == text
    assert found.bos_token == "<s>"


def test_what_lies_beside_the_file_is_not_read(tmp_path, folder):
    model = tiny_llama()
    file = write_gguf(tmp_path / "tiny.gguf", model)
    for name in ("config.json", "tokenizer.json", "adapter_config.json"):
        (tmp_path / name).write_text('{"model_type": "gpt2"}')
    convert_gguf(file, folder)
    assert torch.allclose(load_model(folder)(TOKENS).logits, model(TOKENS).logits, atol=1e-5)


def test_tied_weights_stay_tied(tmp_path, folder):
    model = tiny_llama(tie_word_embeddings=True)
    convert_gguf(write_gguf(tmp_path / "t.gguf", model, left_out="output.weight"), folder)
    found = load_model(folder)
    assert found.lm_head.weight.data_ptr() == found.model.embed_tokens.weight.data_ptr()
    assert torch.allclose(found(TOKENS).logits, model(TOKENS).logits, atol=1e-5)


def test_the_scaled_positions_of_llama_3_are_kept(tmp_path, folder):
    scaled = tiny_llama(rope_parameters=LLAMA3)
    file = write_gguf(tmp_path / "t.gguf", scaled, rope_factors=divisors(scaled))
    convert_gguf(file, folder)
    found = load_model(folder)
    assert torch.allclose(found(TOKENS).logits, scaled(TOKENS).logits, atol=1e-5)
    plain = tiny_llama()
    plain.load_state_dict(scaled.state_dict())
    assert not torch.allclose(plain(TOKENS).logits, scaled(TOKENS).logits, atol=1e-4)


@pytest.mark.parametrize("how", [{"rope_factors": np.linspace(1, 3, 8)}, {"rope_scaling": "yarn"}])
def test_other_scaled_positions_are_refused(tmp_path, folder, how):
    file = write_gguf(tmp_path / "t.gguf", tiny_llama(), **how)
    with pytest.raises(TerseError, match=r"scales its rotary positions .* Hugging Face format"):
        convert_gguf(file, folder)


def test_each_unreadable_file_says_why_in_one_line(tmp_path, folder):
    model = tiny_llama()
    whole = write_gguf(tmp_path / "whole.gguf", model)
    size = whole.stat().st_size
    cut = [tmp_path / f"cut-{part}.gguf" for part in range(1, 9)]
    for part, path in enumerate(cut, 1):
        path.write_bytes(whole.read_bytes())
        os.truncate(path, size * part // 9)
    other = tmp_path / "other.gguf"
    other.write_bytes(b"PK" + bytes(100))
    strange = write_gguf(tmp_path / "strange.gguf", model, architecture="grok")
    mute = write_gguf(tmp_path / "mute.gguf", model, tokenizer_model="rwkv")
    lacking = write_gguf(tmp_path / "lacking.gguf", model, left_out="blk.1.ffn_up.weight")
    for path, words in (
        *((path, "cut off") for path in cut),
        (other, "does not begin with GGUF"),
        (tmp_path / "no.gguf", "there is no GGUF file"),
        (strange, "cannot read the (tokenizer|model).*grok"),
        (mute, "cannot read the tokenizer .*rwkv"),
        (lacking, "lack 1 tensors .*up_proj"),
    ):
        with pytest.raises(TerseError, match=words) as raised:
            convert_gguf(path, folder)
        assert str(path) in str(raised.value)
        assert "\n" not in str(raised.value)
    assert not any(folder.iterdir())


def test_a_conversion_that_fails_publishes_nothing(tmp_path):
    file = write_gguf(tmp_path / "t.gguf", tiny_llama())
    target = tmp_path / "cache" / "models" / "t"
    options = {"gguf": file, "folder": target}
    source = {"path": str(file)}
    with pytest.raises(TerseError, match="it is not the file that sha256 names"):
        run_script("convert_gguf", source=source | {"sha256": "0" * 64}, **options)
    os.truncate(file, file.stat().st_size // 2)
    with pytest.raises(TerseError, match="cut off"):
        run_script("convert_gguf", source=source, **options)
    assert not target.exists()
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path != file]
