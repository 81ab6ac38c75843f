#!/usr/bin/env bash
# One would guess that transformers reads a GGUF file of Llama 3.1 as the model that it is.
# llama.cpp writes that model's scaling of rotary positions as a tensor, rope_freqs.weight, which holds
# a divisor for each frequency. transformers' reader drops this tensor: the model loads with unscaled
# positions, without a warning, and its logits differ.
# Why it matters here: losses and dimensions of another model would be reported under the name of this
# one. terse restores the scaling from the divisors (src/terse/models/rope.py).
#
# PYTHON=... uses an environment that has the packages instead of installing them.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
if [ -z "${PYTHON:-}" ]; then
    python3 -m venv "$folder/venv"
    PYTHON="$folder/venv/bin/python"
    "$PYTHON" -m pip install --quiet torch==2.13.0 numpy==2.4.6
    "$PYTHON" -m pip install --quiet transformers==5.23.0 gguf==0.19.0 accelerate==1.15.0
fi
"$PYTHON" - "$folder" <<'EOF'
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from gguf import GGUFReader, GGUFWriter
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, logging

logging.set_verbosity_warning()
folder = Path(sys.argv[1])
ROPE = {
    "rope_type": "llama3", "rope_theta": 500_000.0, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
}
SIZES = {
    "vocab_size": 64, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 32768,
    "initializer_range": 0.2,
}
NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "model.layers.0.input_layernorm": "blk.0.attn_norm",
    "model.layers.0.post_attention_layernorm": "blk.0.ffn_norm",
    "model.layers.0.self_attn.q_proj": "blk.0.attn_q",
    "model.layers.0.self_attn.k_proj": "blk.0.attn_k",
    "model.layers.0.self_attn.v_proj": "blk.0.attn_v",
    "model.layers.0.self_attn.o_proj": "blk.0.attn_output",
    "model.layers.0.mlp.gate_proj": "blk.0.ffn_gate",
    "model.layers.0.mlp.up_proj": "blk.0.ffn_up",
    "model.layers.0.mlp.down_proj": "blk.0.ffn_down",
}
HEADS = 2


def as_llama_cpp(name: str, rows: np.ndarray) -> np.ndarray:
    if not name.endswith(("attn_q", "attn_k")):
        return rows
    return rows.reshape(HEADS, 2, -1, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape).copy()


torch.manual_seed(0)
model = LlamaForCausalLM(LlamaConfig(**SIZES, rope_parameters=ROPE)).eval()
plain = LlamaForCausalLM(LlamaConfig(**SIZES, rope_parameters={
    "rope_type": "default", "rope_theta": 500_000.0,
})).eval()
plain.load_state_dict(model.state_dict())
divisors = plain.model.rotary_emb.inv_freq / model.model.rotary_emb.inv_freq

writer = GGUFWriter(folder / "tiny.gguf", "llama")
writer.add_block_count(1)
writer.add_context_length(32768)
writer.add_embedding_length(64)
writer.add_feed_forward_length(96)
writer.add_head_count(HEADS)
writer.add_head_count_kv(HEADS)
writer.add_layer_norm_rms_eps(model.config.rms_norm_eps)
writer.add_rope_dimension_count(32)
writer.add_rope_freq_base(500_000.0)
writer.add_vocab_size(64)
writer.add_tokenizer_model("gpt2")
writer.add_token_list([f"t{i}" for i in range(64)])
writer.add_tensor("rope_freqs.weight", divisors.numpy().astype(np.float32))
for name, weight in model.state_dict().items():
    inside = NAMES[name.removesuffix(".weight")]
    writer.add_tensor(f"{inside}.weight", as_llama_cpp(inside, weight.numpy()))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()

read = AutoModelForCausalLM.from_pretrained(
    folder, gguf_file="tiny.gguf", dtype=torch.float32
).eval()
tokens = torch.arange(50)[None]
with torch.no_grad():
    as_written, without, found = (m(tokens).logits for m in (model, plain, read))
packages = ("torch", "transformers", "gguf")
print(", ".join(f"{name} {version(name)}" for name in packages))
stored = {tensor.name for tensor in GGUFReader(folder / "tiny.gguf").tensors}
print("rope_freqs.weight in the file:", "rope_freqs.weight" in stored)
print("rotary positions as read:", read.config.rope_parameters)
print(f"largest difference of logits to the model that was written: {(found - as_written).abs().max():.3g}")
print(f"largest difference of logits to that model without scaling: {(found - without).abs().max():.3g}")
dropped = (found - without).abs().max() < 1e-4 < 1e-3 < (found - as_written).abs().max()
sys.exit(0 if dropped else 1)
EOF
