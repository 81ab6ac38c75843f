"""Rows of a run that starts from a base are no longer than the base's positions."""

from pathlib import Path
from typing import Any

import pytest
import transformers as tf

from terse.errors import TerseError
from terse.methods.causal_lm.method import CausalLM
from terse.methods.causal_lm.settings import CausalLMSettings
from terse.training.method import Inputs

SIZES: dict[str, Any] = {"vocab_size": 300, "bos_token_id": 0, "eos_token_id": 1}
BASES: dict[str, Any] = {
    "gpt2": lambda: tf.GPT2Config(n_embd=16, n_layer=1, n_head=2, n_positions=64, **SIZES),
    "opt": lambda: tf.OPTConfig(
        hidden_size=16, word_embed_proj_dim=16, ffn_dim=32, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=64, **SIZES,
    ),
    "llama": lambda: tf.LlamaConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=64, **SIZES,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BASES)
def test_rows_longer_than_the_base_reads_are_refused(name: str, tmp_path: Path) -> None:
    tf.AutoModelForCausalLM.from_config(BASES[name]()).save_pretrained(tmp_path)
    given = {"method": "causal-lm", "corpus": "c", "base": "b", "max_steps": 1}

    def method(ctx_len: int) -> CausalLM:
        settings = CausalLMSettings.model_validate({**given, "ctx_len": ctx_len})
        return CausalLM(settings, Inputs(base=tmp_path))

    assert method(64).build().training
    with pytest.raises(TerseError, match="rows of 65 tokens are longer than the 64 positions"):
        method(65).build()
