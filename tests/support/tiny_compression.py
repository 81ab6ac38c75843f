"""A tiny base on disk, real text, and the method `compression` on both."""

from pathlib import Path
from typing import Any

from transformers import LlamaConfig, LlamaForCausalLM, set_seed

from terse.config.methods import settings_of
from terse.corpora.documents import write_documents
from terse.corpora.tokenizers import train_bpe
from terse.corpora.tokens import tokenize_documents
from terse.methods.compression.method import Compression
from terse.methods.compression.settings import CompressionSettings
from terse.settings.corpora import Corpus
from terse.training.method import Inputs
from tiny_lms import BUILD

SETTINGS = {
    "method": "compression", "corpus": "c", "base": "tiny-base", "max_steps": 6, "batch_size": 4,
    "lr": 0.02,
    "cmp_len": 8, "n_cmps": 2, "seq_len": 14, "checkpoint_steps": [0],
    "log_interval": 2, "eval_interval": 3, "eval_windows": 40, "max_val_loops": 3, "n_samples": 2,
}  # fmt: skip


def make_inputs(folder: Path, architecture: str = "llama") -> Inputs:
    """Write 40 pages of the Python documentation, their tokens, and a base that reads them."""
    corpus = Corpus(source="python-docs", max_dataset_size=40, validation_fraction=0.3)
    write_documents(corpus, folder / "d.parquet")
    tokenizer = train_bpe(folder / "d.parquet", vocab_size=300, seed=0, folder=folder / "t")
    tokenize_documents(folder / "d.parquet", tokenizer, folder / "tokens.h5")
    set_seed(0)
    if architecture == "llama":
        lm: Any = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=300, hidden_size=16, intermediate_size=32, num_hidden_layers=3,
                num_attention_heads=2, max_position_embeddings=64, bos_token_id=0, eos_token_id=1,
            )
        )  # fmt: skip
    else:
        lm = BUILD[architecture]()
        lm.resize_token_embeddings(300)
    lm.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    return Inputs(tokens=folder / "tokens.h5", documents=folder / "d.parquet", base=folder / "base")


def compression(inputs: Inputs, **changes: Any) -> Compression:
    settings = settings_of(SETTINGS | changes)
    assert isinstance(settings, CompressionSettings)
    return Compression(settings, inputs)
