"""A tiny random model of any architecture of transformers: its config made small by rule."""

import copy
import re
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

LAYERS, WIDTH = 4, 32
RULES: list[tuple[str, Any]] = [  # the first that matches a name decides; None: as it is
    (r"^(image|video|audio|boi|eoi|boa|eoa|vision).*token_(id|index)$", 90),
    (r"^(decoder_start|cls|sep|mask|unk|forced_bos|forced_eos).*token_id$", 5),
    (r"^bos_token_id$", 1), (r"^eos_token_id$", 2), (r"^pad_token_id$", 0),
    (r"token_(id|index)$", 91),
    (r"^vocab_size|_vocab_size$|^n_vocab$|_group_vocab$|vocab_size_base$", 96),
    (r"^(num_hidden_layers|n_layers?|num_layers|decoder_layers|encoder_layers|depth)$", LAYERS),
    (r"^num_(en|de)coder_layers$|_num_layers$", LAYERS),
    (r"nope_head_dim$|rope_head_dim$|qk_head_dim$", 8), (r"rotary_dim$|rotary_ndims$", 4),
    (r"head_dim$|d_head$|head_size$|^kv_channels$|^v_head_dim$|head_width$|^index_head_dim$", 8),
    (r"kv_heads$|key_value_heads$|num_query_groups$|^n_kv_heads$|num_key_value_groups$", 2),
    (r"(^|_)(num_)?(attention_|n_)?heads?$|^num_heads$|^n_head$|attention_heads$|_n_heads$", 4),
    (r"^index_n_heads$|linear_num_(key|value)_heads$", 4),
    (r"experts_per_tok|moe_topk|moe_k$|^top_k_experts$|^num_selected_experts$|num_experts_per", 2),
    (r"^(n_group|topk_group|num_expert_group|n_groups|mamba_n_groups|ngroups)$", 1),
    (r"shared_experts$", 1),
    (r"(num|n)_.*experts$|^num_experts$|^n_routed_experts$|expert_num$|^zero_expert", 4),
    (r"lora_rank$|_rank$|^lora_r$|low_rank_dim$", 8),
    (r"^(state_size|d_state|mamba_d_state|ssm_state_size)$", 8), (r"dt_rank$", 4),
    (r"^(d_model|hidden_size|n_embd|dim|d_embed|embedding_size|embed_dim|emb_dim)$", WIDTH),
    (r"^word_embed_proj_dim$", 32),
    (r"^(lru_width|attention_hidden_size|embedding_dim|text_embed_dim|kv_dim)$", 32),
    (r"hidden_size|d_inner|d_ssm$|hidden_dim$|_width$", 32),
    (r"intermediate|ffn|n_inner|inner_dim|dim_ff|feed_forward|_dff$|mlp_dim|d_ff$", 48),
    (r"max_.*position|n_positions|max_seq|^n_ctx$|max_sequence_length|original_max", 128),
    (r"window", 16), (r"^chunk_size$|chunk_length$|mamba_chunk_size", 8),
    (r"^(image_size|crop_size)$", 16), (r"patch_size$", 8), (r"mtp|nextn|predict_layers", 0),
]  # fmt: skip
WHERE_NONE = {
    "rope_theta": 10000.0, "head_dim": 8, "num_experts_per_tok": 2, "indexer_n_heads": 4,
    "indexer_kv_heads": 1, "indexer_head_dim": 8, "indexer_budget": 8, "indexer_compress_ratio": 4,
}  # fmt: skip
PER_LAYER = re.compile(
    r"layer_types|block_type|layers_type|pattern|per_layer|_layers$|indexer_types"
)
GEMMA3N = {
    "num_kv_shared_layers": 2, "layer_types": ["sliding_attention", "full_attention"] * 2,
    "laurel_rank": 8,
}  # fmt: skip
OF_DOUBLE_WIDTH = {"attention_hidden_size": 64, "attention_head_dim": 16}
SLIDING = {
    "num_attention_heads": 4, "num_key_value_heads": 4, "q_lora_rank": 8, "kv_lora_rank": 8,
    "head_dim": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8,
}  # fmt: skip
DOTS3 = {"per_layer_config": {1: SLIDING, 3: SLIDING}}
DERIVED = ("qk_head_dim", "hybrid_layer_ids")
EXCEPTIONS: dict[str, dict[str, Any]] = {
    "bamba": {"mamba_d_head": 16, "attn_layer_indices": [1, 3]},
    "granitemoehybrid": {"mamba_d_head": 16, "layer_types": ["mamba", "attention"] * 2},
    "falcon_h1": {"mamba_d_ssm": 64, "mamba_d_head": 16},
    "dots1": {
        "n_routed_experts": 4,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
        "n_group": 1,
        "topk_group": 1,
    },
    "gemma3n_text": GEMMA3N,
    "gemma3n": {"text_config": GEMMA3N},
    "dbrx": {"attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0}},
    "mamba2": {"num_heads": 8},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "nemotron": {"num_key_value_heads": 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv", "full_attention"]},
    "zamba": OF_DOUBLE_WIDTH,
    "zamba2": OF_DOUBLE_WIDTH | {"mamba_headdim": 16},
    "zaya": {"num_experts_per_tok": 1, "router_hidden_size": 16},
    "xmod": {"default_language": "en_XX"},
    "xlstm": {"hidden_size": 128, "embedding_dim": 128},
    "dots3_note_text": DOTS3,
    "dots3_note": {
        "text_config": DOTS3,
        "vision_config": {"adapter_in_dim": 32, "adapter_out_dim": 32},
        "audio_config": {"adapter_input_size": 32, "adapter_out_dim": 32},
    },
    "cohere_compass_text": {
        "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 10000.0}}
    },
    "blt": {"encoder_config": {"num_hidden_layers": 1}, "decoder_config": {"num_hidden_layers": 2}},
    "reformer": {
        "is_decoder": True,
        "axial_pos_embds_dim": [16, 16],
        "axial_pos_shape": [8, 16],
    },
}


def tiny_model(name: str, seed: int = 0) -> PreTrainedModel:
    """Return a model of an architecture (`model_type`), every parameter moved from its start."""
    torch.manual_seed(seed)
    config = tiny_config(name)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=None)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model.eval()


def tiny_config(name: str) -> PreTrainedConfig:
    """Return the small config of an architecture."""
    default = AutoConfig.for_model(name)
    values = shrunk(default)
    for key, value in copy.deepcopy(EXCEPTIONS.get(name, {})).items():
        merged = isinstance(value, dict) and isinstance(values.get(key), dict)
        values[key] = values[key] | value if merged else value
    return type(default).from_dict(values)


def shrunk(config: PreTrainedConfig) -> dict[str, Any]:
    """Return a config's values, numbers made small by their names, parts within it too."""
    values = {
        key: value
        for key, value in config.to_dict().items()
        if key not in ("transformers_version", "architectures", "dtype", "torch_dtype")
    }
    parts = {k: v for k, v in vars(config).items() if isinstance(v, PreTrainedConfig)}
    n_layers = getattr(config, "num_hidden_layers", None)
    small = {k: _small(k, v, n_layers) for k, v in values.items() if k not in (*parts, *DERIVED)}
    heads = values.get("num_attention_heads")
    if heads is not None and values.get("num_key_value_heads") == heads:
        small["num_key_value_heads"] = small.get("num_attention_heads")
    return small | {k: shrunk(part) | {"model_type": part.model_type} for k, part in parts.items()}


def _small(name: str, value: Any, n_layers: int | None) -> Any:
    if isinstance(value, list) and (PER_LAYER.search(name) or len(value) == n_layers):
        return [_small(name, item, None) for item in _fewer(value)]
    if isinstance(value, dict) and value and all(str(key).isdigit() for key in value):
        return {LAYERS - 1: _small("", next(iter(value.values())), None)}
    if isinstance(value, dict):
        return {key: _small(str(key), item, None) for key, item in value.items()}
    if value is None and name in WHERE_NONE:
        return WHERE_NONE[name]
    if isinstance(value, bool) or not isinstance(value, int) or value == 0:
        return _bounded_list(name, value)
    for pattern, small in RULES:
        if re.search(pattern, name):
            return value if small is None else small
    return value


def _fewer(per_layer: list[Any]) -> list[Any]:
    """Return the entries of a few layers, each kind among them, or indices of such layers."""
    if per_layer and all(type(item) is int for item in per_layer) and len(set(per_layer)) > 2:
        return [1, 3]  # which layers are of another kind
    kinds = list(dict.fromkeys(map(str, per_layer)))
    chosen = [next(item for item in per_layer if str(item) == kind) for kind in kinds]
    return (chosen * LAYERS)[: max(LAYERS, len(chosen))] if chosen else per_layer


def _bounded_list(name: str, value: Any) -> Any:
    if name.endswith("token_id") and isinstance(value, list):
        return [2]
    return [2, 1, 1] if name == "mrope_section" else value
