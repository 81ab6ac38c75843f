"""Module paths against `output_hidden_states` and the residual stream, a tiny model per family."""

import pytest
import torch
import transformers as hf
from torch import nn

from terse.activations.capture import Capture
from terse.errors import TerseError
from terse.models.modules import layer_indices, module_paths, select_modules
from terse.models.probes import probe_tokens

N_LAYERS, WIDTH, VOCABULARY = 3, 32, 64
WIDE = {
    "hidden_size": WIDTH,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
GROUPED = {**WIDE, "num_key_value_heads": 2, "head_dim": 8}
SHORT = {"n_embd": WIDTH, "n_layer": N_LAYERS, "n_head": 4, "vocab_size": VOCABULARY}
SHORT |= {"n_positions": 64, "bos_token_id": 1, "eos_token_id": 2}
PLAIN = {"hidden_size": WIDTH, "vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2}
FALCON = {**PLAIN, "num_hidden_layers": N_LAYERS, "num_attention_heads": 4}
OPT = {**FALCON, "ffn_dim": 48, "max_position_embeddings": 64, "word_embed_proj_dim": WIDTH}

DECODERS = {
    "llama": lambda: hf.LlamaConfig(**GROUPED),
    "mistral": lambda: hf.MistralConfig(**GROUPED),
    "mixtral": lambda: hf.MixtralConfig(**GROUPED, num_local_experts=2),
    "qwen2": lambda: hf.Qwen2Config(**WIDE, num_key_value_heads=2),
    "qwen3": lambda: hf.Qwen3Config(**GROUPED),
    "gemma": lambda: hf.GemmaConfig(**GROUPED),
    "gemma2": lambda: hf.Gemma2Config(**GROUPED),
    "gemma3": lambda: hf.Gemma3TextConfig(**GROUPED),
    "gpt2": lambda: hf.GPT2Config(**SHORT),
    "gptj": lambda: hf.GPTJConfig(**SHORT, rotary_dim=4),
    "gpt-neox": lambda: hf.GPTNeoXConfig(**WIDE),
    "gpt-neox-sequential": lambda: hf.GPTNeoXConfig(**WIDE, use_parallel_residual=False),
    "opt": lambda: hf.OPTConfig(**OPT),
    "bloom": lambda: hf.BloomConfig(**PLAIN, n_layer=N_LAYERS, n_head=4),
    "olmo": lambda: hf.OlmoConfig(**WIDE),
    "olmo2": lambda: hf.Olmo2Config(**WIDE),
    "phi": lambda: hf.PhiConfig(**WIDE),
    "phi3": lambda: hf.Phi3Config(**WIDE),
    "falcon": lambda: hf.FalconConfig(**FALCON),
    "falcon-new": lambda: hf.FalconConfig(**FALCON, new_decoder_architecture=True),
    "falcon-sequential": lambda: hf.FalconConfig(**FALCON, parallel_attn=False, alibi=True),
    "granite": lambda: hf.GraniteConfig(**WIDE, residual_multiplier=0.22),
    "granite-shared": lambda: hf.GraniteMoeSharedConfig(
        **GROUPED, shared_intermediate_size=16, num_local_experts=4, residual_multiplier=0.22
    ),
    "gpt-neox-japanese": lambda: hf.GPTNeoXJapaneseConfig(
        **{k: v for k, v in WIDE.items() if k != "intermediate_size"}, intermediate_multiple_size=2
    ),
    "mpt": lambda: hf.MptConfig(d_model=WIDTH, n_layers=N_LAYERS, n_heads=4, vocab_size=VOCABULARY),
}
ENCODERS = {
    "bert": lambda: hf.BertConfig(**WIDE),
    "roberta": lambda: hf.RobertaConfig(**WIDE),
    "distilbert": lambda: hf.DistilBertConfig(
        dim=WIDTH, n_layers=N_LAYERS, n_heads=4, hidden_dim=48, vocab_size=VOCABULARY
    ),
    "modernbert": lambda: hf.ModernBertConfig(**WIDE, cls_token_id=1, sep_token_id=2),
}
NO_FINAL_NORM = ("bert", "roberta", "distilbert")
POSITIONS_ADDED = ("gpt2", "opt", "bloom", *ENCODERS)  # to (or a norm after) the token embedding


def built(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name in DECODERS:
        model = hf.AutoModelForCausalLM.from_config(DECODERS[name]())
    else:
        model = hf.AutoModel.from_config(ENCODERS[name]())
    for parameter in model.parameters():  # biases and norms start as zeros and ones
        nn.init.normal_(parameter, std=0.1)
    return model.eval()


def captured(model: nn.Module, keys: list[str], bare: list[str]) -> dict[str, torch.Tensor]:
    tokens = torch.arange(3, 19).view(2, 8)
    with Capture(model, select_modules(model, "all", keys, bare), stop=False) as capture:
        return capture.run(tokens)[0]


def hidden_states(model: nn.Module) -> tuple[torch.Tensor, ...]:
    with torch.no_grad():
        return model(torch.arange(3, 19).view(2, 8), output_hidden_states=True).hidden_states


@pytest.mark.parametrize("name", [*DECODERS, *ENCODERS])
def test_blocks_norm_and_embedding_equal_the_hidden_states(name):
    model = built(name)
    bare = ["emb"] if name in NO_FINAL_NORM else ["emb", "norm"]
    outputs = captured(model, ["block"], bare)
    expected = hidden_states(model)
    for layer in range(N_LAYERS - 1):
        torch.testing.assert_close(outputs[f"block-l{layer}"], expected[layer + 1])
    last = "block-l2" if name in NO_FINAL_NORM else "norm"
    torch.testing.assert_close(outputs[last], expected[-1])
    if name not in POSITIONS_ADDED:
        torch.testing.assert_close(outputs["emb"], expected[0])


@pytest.mark.parametrize("name", DECODERS)
def test_attention_and_mlp_are_what_the_block_adds(name):
    model = built(name)
    outputs = captured(model, ["attn", "mlp", "block"], [])
    for layer in range(1, N_LAYERS):
        added = outputs[f"block-l{layer}"] - outputs[f"block-l{layer - 1}"]
        both = outputs[f"attn-l{layer}"] + outputs[f"mlp-l{layer}"]
        torch.testing.assert_close(added, both, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_bert_sublayers_come_before_residual_and_norm(name):
    model = built(name)
    outputs = captured(model, ["attn", "mlp", "block"], [])
    block = model.encoder.layer[1]
    middle = block.attention.output.LayerNorm(outputs["attn-l1"] + outputs["block-l0"])
    top = block.output.LayerNorm(outputs["mlp-l1"] + middle)
    torch.testing.assert_close(outputs["block-l1"], top)


def test_the_opt_that_normalises_after_the_sum_and_projects_its_embedding():
    """facebook/opt-350m, alone of its family."""
    torch.manual_seed(0)
    sizes = OPT | {"word_embed_proj_dim": 16}
    config = hf.OPTConfig(**sizes, do_layer_norm_before=False)
    model = hf.AutoModelForCausalLM.from_config(config).eval()
    outputs = captured(model, ["attn", "mlp", "block"], ["emb"])
    expected = hidden_states(model)
    decoder = model.model.decoder
    for layer in range(N_LAYERS - 1):
        torch.testing.assert_close(outputs[f"block-l{layer}"], expected[layer + 1])
    torch.testing.assert_close(decoder.project_out(outputs["block-l2"]), expected[-1])
    block = decoder.layers[1]
    middle = block.self_attn_layer_norm(outputs["attn-l1"] + outputs["block-l0"])
    torch.testing.assert_close(
        outputs["block-l1"], block.final_layer_norm(outputs["mlp-l1"] + middle)
    )
    assert outputs["emb"].shape[-1] == 16


def test_unembedding_gives_the_logits():
    model = built("llama")
    outputs = captured(model, [], ["unemb"])
    with torch.no_grad():
        logits = model(torch.arange(3, 19).view(2, 8)).logits
    torch.testing.assert_close(outputs["unemb"], logits)


def test_layers_are_normalised_sorted_and_unique():
    assert layer_indices("all", 3) == [0, 1, 2]
    assert layer_indices([-1, 0, 2], 3) == [0, 2]
    assert layer_indices(["1-2", 0], 3) == [0, 1, 2]
    assert layer_indices("0-1", 3) == [0, 1]
    model = built("llama")
    assert list(select_modules(model, [-1], ["mlp"], [])) == ["mlp-l2"]


@pytest.mark.parametrize("layers", [[3], [-4], ["0-3"], ["2-1"], ["a"], ["1-"]])
def test_a_layer_that_is_not_there_is_an_error(layers):
    with pytest.raises(TerseError, match=r"layers 0 to 2|not a layer"):
        layer_indices(layers, 3)


def test_unknown_key_and_path_name_near_matches():
    model = built("llama")
    with pytest.raises(TerseError, match="did you mean 'block'"):
        select_modules(model, "all", ["blok"], [])
    with pytest.raises(TerseError, match=r"model\.layers\.0\.self_attn"):
        module_paths(model, {"attn": "model.layers.{layer}.selfattn"})
    with pytest.raises(TerseError, match="no other braces"):
        module_paths(model, {"attn": "model.layers.{lyer}.self_attn"})


def test_keys_in_the_wrong_list_and_no_key_at_all_are_errors():
    model = built("llama")
    with pytest.raises(TerseError, match="belongs in module_outblock_keys"):
        select_modules(model, "all", ["norm"], [])
    with pytest.raises(TerseError, match="belongs in module_inblock_keys"):
        select_modules(model, "all", [], ["mlp"])
    with pytest.raises(TerseError, match="no module is selected"):
        select_modules(model, "all", [], [])


def test_mapping_adds_and_replaces():
    model = built("llama")
    mapping = {"q": "model.layers.{layer}.self_attn.q_proj", "norm": "model.layers.0.mlp"}
    refs = select_modules(model, [1], ["q"], ["norm"], mapping)
    assert [ref.path for ref in refs.values()] == [
        "model.layers.1.self_attn.q_proj",
        "model.layers.0.mlp",
    ]
    assert refs["q-l1"].module is model.model.layers[1].self_attn.q_proj


def test_a_tree_without_layers_says_what_to_give():
    with pytest.raises(TerseError, match="give module_name_mapping"):
        select_modules(nn.Sequential(nn.Linear(2, 2)), [0], ["0"], [], {"0": "{layer}"})


HYBRID = GROUPED | {
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8,
    "linear_value_head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2,
    "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16,
}  # fmt: skip


def hybrid() -> nn.Module:
    torch.manual_seed(0)
    return hf.AutoModelForCausalLM.from_config(hf.Qwen3NextConfig(**HYBRID)).eval()


def test_of_all_layers_a_key_takes_those_that_have_it():
    refs = select_modules(hybrid(), "all", ["attn", "mixer", "mlp"], [])
    assert list(refs) == ["mixer-l0", "mlp-l0", "attn-l1", "mlp-l1", "mixer-l2", "mlp-l2"]


def test_a_layer_asked_for_by_index_that_has_no_attention_names_those_that_have():
    with pytest.raises(TerseError, match=r"layer 0 .* has no 'attn'; layers that have one: 1 "):
        select_modules(hybrid(), [0, 1], ["attn"], [])


def test_a_model_without_attention_names_what_its_layers_have():
    config = hf.MambaConfig(hidden_size=16, num_hidden_layers=2, vocab_size=64, state_size=4)
    model = hf.MambaForCausalLM(config).eval()
    with pytest.raises(TerseError, match="has 'attn'; allowed here: mixer, block"):
        select_modules(model, "all", ["attn"], [])
    assert select_modules(model, "all", ["mixer"], [])["mixer-l1"].path == "backbone.layers.1.mixer"


def test_a_model_without_a_final_norm_says_what_to_set():
    with pytest.raises(TerseError, match=r"set module_outblock_keys: \[\]"):
        select_modules(built("bert"), "all", ["block"], ["norm"])


def test_a_block_that_adds_what_depends_on_the_tokens_otherwise_is_found_out():
    """What holds for the tokens that the terms were found on does not for others."""
    model = built("llama")
    mlp = model.model.layers[1].mlp
    plain = mlp.forward
    tokens = probe_tokens(model)

    def odd(x: torch.Tensor) -> torch.Tensor:
        return plain(x)

    mlp.forward = odd
    layer = model.model.layers[1]
    whole = layer.forward

    def with_more(hidden: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        out = whole(hidden, *args, **kwargs)
        return out if hidden[0, 0, 0] == first else out + 1.0

    seen: list[torch.Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    with torch.no_grad():
        model(tokens)
    handle.remove()
    first = seen[0][0, 0, 0]
    layer.forward = with_more
    with pytest.raises(TerseError, match=r"layer 1 .* adds something other than"):
        select_modules(model, "all", ["attn", "mlp"], [], tokens=tokens.flip(1))
