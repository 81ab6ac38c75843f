#!/usr/bin/env bash
# One would guess that merging a LoRA into its base gives the model that ran with it unmerged.
# If the base's head shares the embeddings' weights and the LoRA is on either, peft's merge_and_unload
# changes both, and with ensure_weight_tying=True, which is there for such models, it merges twice:
# the logits are farther from the adapted model's than the base's were. peft warns about the former.
# Why it matters here: adapters are merged before a model is measured, and small models are tied.
# terse gives the head weights of its own first (src/terse/models/adapters.py).
#
# PYTHON=... uses an environment that has the packages instead of installing them.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
if [ -z "${PYTHON:-}" ]; then
    python3 -m venv "$folder/venv"
    PYTHON="$folder/venv/bin/python"
    "$PYTHON" -m pip install --quiet torch==2.13.0 numpy==2.4.6
    "$PYTHON" -m pip install --quiet transformers==5.23.0 peft==0.21.2 accelerate==1.15.0
fi
"$PYTHON" - <<'EOF'
import sys
from importlib.metadata import version

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

SIZES = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 2, "initializer_range": 0.2,
}
TOKENS = torch.arange(20)[None]


@torch.no_grad()
def distances(tied: bool, **options: bool) -> tuple[float, float]:
    """Return how far the base and the merged model are from the adapted one, in logits."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=tied)).eval()
    base = model(TOKENS).logits
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=["embed_tokens"], **options))
    for name, weight in adapted.named_parameters():
        if "lora" in name:
            weight.normal_(0, 0.3)
    expected = adapted.eval()(TOKENS).logits
    merged = adapted.merge_and_unload()(TOKENS).logits
    return tuple(float((found - expected).abs().max()) for found in (base, merged))


print(", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft")))
found = {
    "own head": distances(False),
    "tied head": distances(True),
    "tied head, ensure_weight_tying=True": distances(True, ensure_weight_tying=True),
}
for what, (base, merged) in found.items():
    print(f"{what}: adapted model to its base {base:.2g}, to itself merged {merged:.2g}")
wrong = [merged > base for what, (base, merged) in found.items() if what.startswith("tied")]
sys.exit(0 if found["own head"][1] < 1e-4 and all(wrong) else 1)
EOF
