"""Tiny hierarchical autoencoders."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from terse.config.methods import settings_of
from terse.corpora.documents import write_documents
from terse.corpora.tokenizers import make_byte_tokenizer
from terse.corpora.tokens import tokenize_documents
from terse.methods.hierarchical.model import HierarchicalAutoencoder
from terse.methods.hierarchical.settings import BOS, EOS, PAD, HierarchicalSettings
from terse.settings.corpora import Corpus
from terse.training.method import Inputs

LEVEL: dict[str, Any] = {
    "dim": 16, "heads": 2, "window": 5, "codebook_size": 12, "entropy_delta": 0.01,
    "max_segment_len": 4, "vq_reset_interval": 0,
}  # fmt: skip
TOP = {"dim": 16, "num_layers": 1, "num_heads": 2}
LEVELS: tuple[dict[str, Any], ...] = (
    {"vq_reset_interval": 2, "target_compression_ratio": 0.3, "vq_decay": 0.5, "vq_warmup": 0.4},
    {"codebook_size": 7, "vq_reset_interval": 2},
)
UPPER = {"codebook_size": 7, "max_segment_len": 3, "dim": 24}
KINDS: dict[str, dict[str, Any]] = {
    "vq": {},
    "two levels": {"levels": ({}, UPPER)},
    "several queries": {"levels": ({"num_queries": 2}, UPPER)},
    "residual": {"levels": ({"quantizer": "residual", "num_quantizers": 2},)},
    "fsq": {"levels": ({"quantizer": "fsq", "fsq_levels": [3, 4]},)},
    "none": {"levels": ({"quantizer": "none"},), "top": {**TOP, "continuous": True}},
    "continuous": {"top": {**TOP, "continuous": True, "ce_weight": 0.0}},
    "decoder only": {"use_decoder_only_expander": True, "expander_lookback": 2},
    "encoder": {"expander_num_enc_layers": 1, "levels": ({"num_queries": 2}, UPPER)},
    "contextual": {"expander_memory": "contextual", "expander_lookback": 0},
}
SETTINGS: dict[str, Any] = {
    "method": "hierarchical", "corpus": "c", "tokenizer": "bytes", "max_steps": 6,
    "batch_size": 3, "sequence_length": 32, "checkpoint_steps": [0], "lr": 3e-3,
    "log_interval": 2, "eval_interval": 3, "expander_num_dec_layers": 1, "n_samples": 1,
}  # fmt: skip


def settings(*levels: dict[str, Any], top: Any = TOP, **changes: Any) -> HierarchicalSettings:
    """Return settings of as many levels as given, each with some keys changed."""
    configs = [LEVEL | level for level in levels or ({},)]
    block = SETTINGS | {"num_levels": len(configs), "compressor_level_configs": configs}
    found = settings_of(block | {"top_transformer_config": top} | changes)
    assert isinstance(found, HierarchicalSettings)
    return found


def model(*levels: dict[str, Any], seed: int = 0, **changes: Any) -> HierarchicalAutoencoder:
    """Return a random model in eval mode whose predictions are far from uniform."""
    torch.manual_seed(seed)
    found = HierarchicalAutoencoder(settings(*levels, **changes))
    with torch.no_grad():
        for name, parameter in found.named_parameters():
            if ".heads." in name:
                parameter.mul_(10.0)
    return found.eval()


def rows(*lengths: int, width: int | None = None, seed: int = 0) -> Tensor:
    """Return rows [BOS, random bytes, EOS, padding] (B, S); lengths count all but the padding."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.full((len(lengths), width or max(lengths)), PAD)
    for row, length in zip(ids, lengths, strict=True):
        row[:length] = torch.randint(97, 123, (length,), generator=generator)
        row[0], row[length - 1] = BOS, EOS
    return ids


def byte_inputs(folder: Path) -> Inputs:
    """Write 12 pages of the Python documentation and their bytes as tokens."""
    corpus = Corpus(source="python-docs", max_dataset_size=12, validation_fraction=0.4)
    write_documents(corpus, folder / "d.parquet")
    tokenizer = make_byte_tokenizer(folder / "t")
    tokenize_documents(folder / "d.parquet", tokenizer, folder / "tokens.h5")
    return Inputs(tokens=folder / "tokens.h5", documents=folder / "d.parquet")


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Return normal numbers of this shape, the same for each seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
