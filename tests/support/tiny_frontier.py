"""A tiny reader of the documentation of Python, and windows of it."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from terse.corpora.documents import read_documents, write_documents
from terse.corpora.tokenizers import make_byte_tokenizer, train_bpe
from terse.evaluation.frontier.reader import CausalReader
from terse.evaluation.frontier.reading import Reading
from terse.evaluation.frontier.windows import Window, cut_windows
from terse.settings.corpora import Corpus

N_LAYERS, N_HEADS, HEAD = 2, 2, 8


def reader_lm(vocab_size: int = 300, **changes: Any) -> PreTrainedModel:
    """Return a random Llama with two query heads for each key head, far from uniform."""
    torch.manual_seed(0)
    config = {
        "vocab_size": vocab_size, "hidden_size": 32, "intermediate_size": 48,
        "num_hidden_layers": N_LAYERS, "num_attention_heads": 2 * N_HEADS,
        "num_key_value_heads": N_HEADS, "head_dim": HEAD, "max_position_embeddings": 512,
        "bos_token_id": 0, "eos_token_id": 1,
    }  # fmt: skip
    lm = LlamaForCausalLM(LlamaConfig(**{**config, **changes}))
    with torch.no_grad():
        for parameter in lm.parameters():
            if parameter.ndim == 2:
                parameter.mul_(5.0)
    return lm.eval().requires_grad_(False)


@cache
def documents() -> list[dict[str, Any]]:
    """Return the validation documents of 40 pages, with sentences as steps."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "d.parquet"
        corpus = Corpus(
            source="python-docs", max_dataset_size=40, validation_fraction=0.3,
            separator_pattern=r"[.:]\s+",
        )  # fmt: skip
        write_documents(corpus, path)
        return [row for rows in read_documents(path, "validation") for row in rows]


@cache
def bpe() -> Any:
    """Return a tokenizer of 300 tokens trained on 40 pages."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "d.parquet"
        write_documents(
            Corpus(source="python-docs", max_dataset_size=40, validation_fraction=0.3), path
        )
        return train_bpe(path, vocab_size=300, seed=0, folder=Path(folder) / "t")


@cache
def byte_tokenizer() -> Any:
    with TemporaryDirectory() as folder:
        return make_byte_tokenizer(Path(folder) / "t")


def causal_reader(**changes: Any) -> CausalReader:
    return CausalReader(reader_lm(**changes), bpe())


def windows(n: int = 3, context: int = 300, target: int = 40) -> list[Window]:
    return cut_windows(documents(), n_windows=n, context_bytes=context, target_bytes=target)


def window(context: str, target: str, number: int = 0, document: str = "d") -> Window:
    """Return a window of given text."""
    return Window(number, document, "0" * 64, 0, context, target)


def held_clouds(way: Reading, given: Window, rate: float) -> list[torch.Tensor]:
    """Return the states (H, n, D) that a way holds at the middle and at the last block."""
    seen: list[torch.Tensor] = []

    def note(clouds: torch.Tensor) -> dict[str, float]:
        seen.append(clouds)
        return {"participation_ratio": 0.0}

    way.measure(["participation_ratio"])
    assert way.held is not None
    way.held._estimates = note
    with torch.inference_mode():
        way.read(given, [rate])
    return seen


def n_held(way: Reading, given: Window, rate: float) -> int:
    """Return how many positions a way says that it holds."""
    with torch.inference_mode():
        return int(way.read(given, [rate])[0].positions_held)


def measured(way: Reading, given: Window, rate: float, *, at_border: int = 0) -> list[int]:
    """Return how many held positions are measured at each place and the same for another target.

    at_border: positions that the context shares with the target, which may differ.
    """
    one, other = (
        held_clouds(way, replace(given, target=target), rate)
        for target in (given.target, given.target[::-1])
    )
    counts = []
    for a, b in zip(one, other, strict=True):
        same = torch.isclose(a, b, atol=1e-5).all(-1).all(0)  # (n,)
        same[len(same) - at_border :] = True
        counts.append(int(same.sum()))
    return counts
