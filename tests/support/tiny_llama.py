"""A tiny model, a file of chunks and settings for the tests of capture and cache."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from terse.settings.activations import Activations

N_CONTEXTS, CTX_LEN, VOCABULARY, WIDTH, N_LAYERS = 11, 32, 97, 24, 3


def make_model(seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        hidden_size=WIDTH,
        num_hidden_layers=N_LAYERS,
        num_attention_heads=4,
        intermediate_size=40,
        vocab_size=VOCABULARY,
        max_position_embeddings=64,
    )
    return LlamaForCausalLM(config).eval().requires_grad_(False)


def write_chunks(path: Path, n: int = N_CONTEXTS, ctx_len: int = CTX_LEN) -> Path:
    text = h5py.string_dtype()
    with h5py.File(path, "w") as file:
        tokens = np.random.default_rng(0).integers(0, VOCABULARY, (n, ctx_len))
        file["tokens"] = tokens.astype(np.int32)
        rows = file.create_group("rows")
        rows.create_dataset("id", data=[f"seite-{i // 2}-{i % 2}" for i in range(n)], dtype=text)
        rows.create_dataset("document", data=[f"größe-{i // 2}" for i in range(n)], dtype=text)
        rows["chunk"] = np.arange(n, dtype=np.int32) % 2
        rows["byte_start"] = np.arange(n, dtype=np.int64) * 100
        rows["byte_end"] = np.arange(n, dtype=np.int64) * 100 + 90
        rows.create_dataset("metadata", data=['{"a": 1}'] * n, dtype=text)
        file.attrs.update({"ctx_len": ctx_len, "bos": False, "bos_id": -1})
        file.attrs.update({"fingerprint": "f" * 64, "tokenizer_digest": "t" * 64})
        file.attrs["settings"] = json.dumps({"chunk_gap": 50})
    return path


def make_settings(**changes: Any) -> Activations:
    """Return what is captured of the tiny model, also what the configuration would refuse."""
    values = {
        "corpus": "c",
        "ctx_len": CTX_LEN,
        "batch_size": 4,
        "save_IDs_list": ["mle", "mind_ml"],
    }
    assert changes.keys() <= Activations.model_fields.keys()
    return Activations.model_construct(**{**values, **changes})
