"""A tiny Llama as a GGUF file, as llama.cpp's converter writes it, and wheels that hold files."""

import io
import zipfile
from pathlib import Path

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType, TokenType, dequantize, quantize
from tokenizers import ByteLevelBPETokenizer
from transformers import LlamaConfig, LlamaForCausalLM

TEXTS = ["how few tokens does a language model need", "the tower is in the city", "0 1 2 3 4"] * 3
VOCABULARY, WIDTH, HIDDEN, LAYERS, HEADS, KV_HEADS = 300, 64, 96, 2, 4, 2
NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
    "input_layernorm.weight": "attn_norm.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
}


def tiny_llama(seed: int = 0, **changes: object) -> LlamaForCausalLM:
    """Return a model with random weights that are not tied."""
    torch.manual_seed(seed)
    sizes = {
        "vocab_size": VOCABULARY, "hidden_size": WIDTH, "intermediate_size": HIDDEN,
        "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "max_position_embeddings": 64,
        "num_key_value_heads": KV_HEADS, "initializer_range": 0.2, "bos_token_id": 0,
    }  # fmt: skip
    return LlamaForCausalLM(LlamaConfig(**{**sizes, **changes})).eval()


def tokenizer() -> ByteLevelBPETokenizer:
    """Return a byte-level tokenizer of 300 tokens or fewer."""
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(
        TEXTS, vocab_size=VOCABULARY, min_frequency=1, special_tokens=["<s>"], show_progress=False
    )
    return bpe


def write_gguf(
    path: Path,
    model: LlamaForCausalLM,
    *,
    architecture: str = "llama",
    tokenizer_model: str = "gpt2",
    quantised: bool = True,
    rope_factors: np.ndarray | None = None,
    rope_scaling: str | None = None,
    left_out: str | None = None,
) -> Path:
    """Write a model and its tokenizer; matrices in Q8_0. `model` gets the rounded weights."""
    writer = GGUFWriter(path, architecture)
    _write_sizes(writer, model, quantised)
    if rope_scaling is not None:
        writer.add_string(f"{architecture}.rope.scaling.type", rope_scaling)
    _write_tokenizer(writer, tokenizer_model)
    if rope_factors is not None:
        writer.add_tensor("rope_freqs.weight", rope_factors.astype(np.float32))
    for name, weight in model.state_dict().items():
        layer, _, rest = name.removeprefix("model.layers.").partition(".")
        in_file = f"blk.{layer}.{NAMES[rest]}" if "layers." in name else NAMES[name]
        if in_file != left_out:
            _write_tensor(writer, in_file, weight, quantised)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _write_sizes(writer: GGUFWriter, model: LlamaForCausalLM, quantised: bool) -> None:
    config = model.config
    writer.add_name("Tiny")
    writer.add_license("apache-2.0")
    writer.add_block_count(LAYERS)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(VOCABULARY)
    writer.add_file_type(LlamaFileType.MOSTLY_Q8_0 if quantised else LlamaFileType.ALL_F32)


def _write_tokenizer(writer: GGUFWriter, tokenizer_model: str) -> None:
    bpe = tokenizer()
    by_id = sorted(bpe.get_vocab(), key=bpe.get_vocab().__getitem__)
    tokens = by_id + [f"<unused{i}>" for i in range(len(by_id), VOCABULARY)]
    plain = [not token.startswith("<") or len(token) == 1 for token in tokens]
    types = [TokenType.NORMAL if is_plain else TokenType.CONTROL for is_plain in plain]
    writer.add_tokenizer_model(tokenizer_model)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    merges = io.StringIO(bpe.to_str())
    writer.add_token_merges(_merges(merges.getvalue()))
    writer.add_bos_token_id(0)


def _merges(tokenizer_json: str) -> list[str]:
    import json

    pairs = json.loads(tokenizer_json)["model"]["merges"]
    return [pair if isinstance(pair, str) else " ".join(pair) for pair in pairs]


def _write_tensor(writer: GGUFWriter, name: str, weight: torch.Tensor, quantised: bool) -> None:
    values = weight.numpy()
    if not quantised or values.ndim == 1:
        writer.add_tensor(name, _as_llama_cpp(name, values))
        return
    kind = GGMLQuantizationType.Q8_0
    blocks = quantize(values, kind)
    weight.copy_(torch.from_numpy(dequantize(blocks, kind)))  # rows stay rows, so order is free
    writer.add_tensor(name, _as_llama_cpp(name, blocks), raw_dtype=kind)


def _as_llama_cpp(name: str, rows: np.ndarray) -> np.ndarray:
    """Return rows in the order of llama.cpp, which turns neighbouring pairs of a head."""
    heads = {"attn_q.weight": HEADS, "attn_k.weight": KV_HEADS}.get(name.partition(".")[2][2:])
    if heads is None:
        return np.ascontiguousarray(rows)
    halves = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows.shape))


def write_wheel(
    folder: Path, name: str, version: str, files: dict[str, bytes], licence: str = "Apache-2.0"
) -> Path:
    """Write a wheel that holds files, as `pip download` takes it."""
    stem = f"{name.replace('-', '_')}-{version}"
    info = f"{stem}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nLicense: {licence}\n"
    tags = "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    path = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for inside, content in files.items():
            archive.writestr(inside, content)
        archive.writestr(f"{info}/METADATA", metadata)
        archive.writestr(f"{info}/WHEEL", tags)
        archive.writestr(f"{info}/RECORD", "")
    return path


def index_of(folder: Path, *wheels: Path) -> str:
    """Make a folder with a simple index of wheels; return its URL."""
    for wheel in wheels:
        name = wheel.name.partition("-")[0].replace("_", "-")
        page = folder / name / "index.html"
        page.parent.mkdir(parents=True, exist_ok=True)
        link = f'<a href="{wheel.absolute().as_uri()}">{wheel.name}</a>\n'
        page.write_text((page.read_text() if page.exists() else "<!doctype html>\n") + link)
    folder.mkdir(parents=True, exist_ok=True)
    return folder.absolute().as_uri()
