"""Bits per byte of held-out text, every token scored once, next to coders that know no language."""

import lzma
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import DataLoader, Dataset

from terse.evaluation.measures import Measure

Floats = NDArray[np.float64]
N_DRAWS, BLOCK = 2000, 1 << 22  # of documents; numbers in memory at a time


@dataclass(frozen=True)
class DocumentScores:
    """What each document costs: nats (D,), and its size in UTF-8 bytes (D,) and targets (D,)."""

    nats: Floats
    n_bytes: Floats
    n_targets: Floats


def score_documents(
    model: nn.Module, windows: Dataset[Any], *, device: str, batch_tokens: int = 4096
) -> DocumentScores:
    """Score each document with a causal LM, about `batch_tokens` positions at a time.

    `windows` are those of `terse.corpora.windows.scoring_windows`: each token a target once.
    """
    batch_size = max(1, batch_tokens // len(windows[0]["input_ids"]))
    n_documents = max(int(windows[i]["document"]) for i in (0, len(windows) - 1)) + 1  # type: ignore[arg-type]
    totals = np.zeros((3, n_documents))
    model.eval().to(device)
    with torch.inference_mode():
        for batch in DataLoader(windows, batch_size=batch_size):
            labels = batch["labels"][:, 1:].to(device)  # (B, T - 1)
            logits = model(
                input_ids=batch["input_ids"].to(device),
                attention_mask=batch["attention_mask"].to(device),
                use_cache=False,
            ).logits[:, :-1]  # (B, T - 1, V)
            nats = nn.functional.cross_entropy(
                logits.float().transpose(1, 2), labels, reduction="none", ignore_index=-100
            ).sum(1)  # (B,)
            columns = (nats.cpu(), batch["target_bytes"], labels.ne(-100).sum(1).cpu())
            for total, values in zip(totals, columns, strict=True):
                np.add.at(total, batch["document"].numpy(), values.double().numpy())
    return DocumentScores(*totals)


def bits_per_byte(arm: str, scores: DocumentScores, *, seed: int = 0) -> list[Measure]:
    """Return bits per byte and the loss per token, with intervals from resampled documents."""
    return [
        ratio_of_sums(arm, "bits_per_byte", scores.nats / math.log(2), scores.n_bytes, seed),
        ratio_of_sums(arm, "loss_nats", scores.nats, scores.n_targets, seed),
    ]


def ratio_of_sums(arm: str, measure: str, top: Floats, bottom: Floats, seed: int = 0) -> Measure:
    """Return sum(top) / sum(bottom) with its 95 % bootstrap interval over documents, (D,) both."""
    blocks = resampled(len(top), seed)
    ratios = [top[draws].sum(1) / bottom[draws].sum(1) for draws in blocks]
    low, high = np.quantile(np.concatenate(ratios), [0.025, 0.975])
    value = float(top.sum() / bottom.sum())
    return Measure(arm, measure, value, float(low), float(high), n=len(top))


def resampled(n_documents: int, seed: int = 0) -> Iterator[NDArray[np.int64]]:
    """Yield 2000 draws of documents with replacement, some (n, D) at a time; the same each time.

    About 32 MiB each, however many documents there are.
    """
    draw = np.random.default_rng(seed)
    n = max(1, BLOCK // n_documents)
    for start in range(0, N_DRAWS, n):
        yield draw.integers(n_documents, size=(min(n, N_DRAWS - start), n_documents))


def coder_baselines(train: Iterable[str], validation: Iterable[str]) -> list[Measure]:
    """Return what coders without a language model need for the validation text.

    `uniform`: a byte at its face value. `xz`: the text compressed by itself. `xz_primed`: what it
    adds to the compressed training text, for coders that may have seen that, as a model has.
    """
    texts = [text.encode() for text in validation]
    held_out, seen = b"".join(texts), b"".join(text.encode() for text in train)
    n = len(texts)

    def bits(n_bytes: int) -> float:
        return 8 * n_bytes / len(held_out)

    primed = _xz(seen + held_out) - _xz(seen)
    return [
        Measure("uniform", "bits_per_byte", 8.0, n=n),
        Measure("xz", "bits_per_byte", bits(_xz(held_out)), n=n),
        Measure("xz_primed", "bits_per_byte", bits(primed), n=n),
    ]


def _xz(content: bytes) -> int:
    return len(lzma.compress(content, preset=9 | lzma.PRESET_EXTREME))
