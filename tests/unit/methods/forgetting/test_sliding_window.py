"""Layers that see a window keep it, whatever is dropped: each kind of layer its own."""

from typing import Any

import pytest
import torch
import transformers as tf
from transformers import PreTrainedModel

from terse.errors import TerseError
from terse.methods.forgetting.gates import gated_nats
from terse.methods.forgetting.generation import Writer
from terse.methods.forgetting.modes import hidden_logits, score
from terse.methods.forgetting.windows import layer_kinds
from tiny_forgetting import text_rows
from tiny_lms import VOCAB, WIDTH, random_tokens

WINDOW = 6
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB, "hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 3,
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8,
    "max_position_embeddings": 128, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
LAYERS = {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
CHUNKS = {"layer_types": ["chunked_attention", "full_attention", "chunked_attention"]}
CONFIGS: dict[str, Any] = {
    "mistral": lambda: tf.MistralConfig(**SIZES, sliding_window=WINDOW),
    "phi3": lambda: tf.Phi3Config(**SIZES, sliding_window=WINDOW),
    "gemma2": lambda: tf.Gemma2Config(**SIZES, **LAYERS, sliding_window=WINDOW),
    "gemma3": lambda: tf.Gemma3TextConfig(**SIZES, **LAYERS, sliding_window=WINDOW),
    "qwen2": lambda: tf.Qwen2Config(
        **{k: v for k, v in SIZES.items() if k != "head_dim"}, **LAYERS,
        use_sliding_window=True, sliding_window=WINDOW,
    ),
    "gpt_oss": lambda: tf.GptOssConfig(
        **SIZES, **LAYERS, sliding_window=WINDOW, num_local_experts=2, num_experts_per_tok=1,
        rope_scaling=None,
    ),
    "llama4": lambda: tf.Llama4TextConfig(
        **SIZES, **CHUNKS, attention_chunk_size=WINDOW, num_local_experts=2,
        num_experts_per_tok=1, intermediate_size_mlp=32, moe_layers=[],
    ),
}  # fmt: skip


def windowed(name: str) -> PreTrainedModel:
    """Return a random model in eval mode, far from uniform."""
    torch.manual_seed(0)
    lm = tf.AutoModelForCausalLM.from_config(CONFIGS[name]())
    with torch.no_grad():
        for parameter in lm.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(4.0)
    return lm.eval().requires_grad_(False)


def without(place: int, rows: Any) -> torch.Tensor:
    """Return decisions (B, T) that drop one place."""
    keep = torch.ones_like(rows.attention_mask)
    keep[:, place] = False
    return keep


@pytest.fixture(params=CONFIGS)
def lm(request: pytest.FixtureRequest) -> PreTrainedModel:
    return windowed(request.param)


def test_a_dropped_token_is_masked_out_and_nothing_else(lm: PreTrainedModel) -> None:
    rows = text_rows((24, 20, 24), block=6)
    keep = without(4, rows)
    mask = (rows.attention_mask & keep).long()
    places = torch.arange(24).expand(3, -1)
    expected = lm(
        input_ids=rows.input_ids, attention_mask=mask, position_ids=places, use_cache=False
    ).logits
    found = hidden_logits(lm, rows, keep)
    real = rows.attention_mask.clone()
    real[:, 4] = False  # it sees itself in ours
    assert float((found - expected)[real].abs().max()) < 1e-4
    assert not torch.allclose(found, hidden_logits(lm, rows, torch.ones_like(keep)), atol=1e-3)


@pytest.mark.parametrize("name", ["mistral", "phi3"])
def test_what_no_window_reaches_changes_nothing(name: str) -> None:
    rows = text_rows((48, 48), block=6)  # three layers of windows reach 15 places back
    kept = score(windowed(name), rows, torch.ones_like(rows.attention_mask), "kv")
    dropped = score(windowed(name), rows, without(1, rows), "kv")
    assert torch.allclose(kept.nats, dropped.nats, atol=1e-4)


@pytest.mark.parametrize("name", ["mistral", "gemma2", "llama4"])
def test_open_gates_are_the_model(name: str) -> None:
    lm, rows = windowed(name), text_rows((24, 20, 24), block=6)
    if name == "gemma2":
        lm.config.attn_logit_softcapping = None  # the gates' attention has none
        for layer in lm.model.layers:
            layer.self_attn.attn_logit_softcapping = None
    keep = torch.ones_like(rows.attention_mask)
    expected = score(lm, rows, keep, "kv").nats
    assert torch.allclose(gated_nats(lm, rows, keep.float()), expected, atol=1e-4)


class Every(Writer):
    """Drops every third place, but never the last token of the prompt."""

    def keeps(self, ids: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        place = torch.arange(ids.shape[1], device=ids.device)
        return real & (place % 3 != 1)


def naive(lm: PreTrainedModel, prompt: list[int], n: int, mode: str) -> list[int]:
    """Write token by token, all computed anew."""
    text = list(prompt)
    for _ in range(n):
        ids = torch.tensor([text])
        keep = torch.arange(len(text)) % 3 != 1
        keep[-1] = True
        if mode == "kv":
            rows = text_rows((len(text),))
            shown = type(rows)(ids, torch.ones_like(ids, dtype=torch.bool), rows.is_target)
            logits = hidden_logits(lm, shown, keep[None])
        else:
            ids = ids[:, keep]
            logits = lm(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        text.append(int(logits[0, -1].argmax()))
    return text[len(prompt) :]


@pytest.mark.parametrize("mode", ["pack", "kv"])
def test_cached_writing_equals_recomputed(lm: PreTrainedModel, mode: str) -> None:
    class Settings:
        decides_at_once, positions, mask, decide = True, "compact", "", ""

    model: Any = type("Model", (), {"lm": lm, "settings": Settings(), "pad_id": 0})()
    ids, lengths = random_tokens(3, 20, seed=1), [20, 11, 16]
    real = torch.arange(20) < torch.tensor(lengths)[:, None]
    written, _ = Every(model, 0.5, mode).write(ids, real, 12)
    assert written.tolist() == [
        naive(lm, ids[i, :n].tolist(), 12, mode) for i, n in enumerate(lengths)
    ]


def test_layers_that_carry_a_state_hide_nothing() -> None:
    config = tf.Lfm2Config(**{**SIZES, "layer_types": ["conv", "full_attention", "conv"]})
    lm = tf.AutoModelForCausalLM.from_config(config)
    with pytest.raises(TerseError, match="layers of kind conv"):
        layer_kinds(lm)


def test_models_without_windows_take_one_mask() -> None:
    assert layer_kinds(tf.LlamaForCausalLM(tf.LlamaConfig(**SIZES))) == {"full_attention"}
