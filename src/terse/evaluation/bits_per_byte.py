"""Bits per byte of held-out text, every token scored once, next to coders that know no language."""

import lzma
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedModel

from terse.evaluation.flops import lm_flops
from terse.evaluation.measures import Measure
from terse.evaluation.scores import DocumentSums
from terse.machine.progress import shown

DICTIONARY = 1 << 26  # bytes that xz looks back at most
HELD_OUT = 1 << 24  # bytes of which a ratio is stable; xz reads less than 1 MB/s


def score_documents(
    model: PreTrainedModel, windows: Dataset[Any], *, device: str, batch_tokens: int = 4096
) -> DocumentSums:
    """Score each document with a causal LM as arm `model`, about `batch_tokens` positions a batch.

    `windows` come from `terse.corpora.windows.scoring_windows`: each token is a target once.
    """
    batch_size = max(1, batch_tokens // len(windows[0]["input_ids"]))
    n_documents = max(int(windows[i]["document"]) for i in (0, len(windows) - 1)) + 1  # type: ignore[arg-type]
    sums = DocumentSums(n_documents)
    model.eval().to(device)  # type: ignore[arg-type]
    cost = lm_flops(model)
    with torch.inference_mode():
        for batch in shown(DataLoader(windows, batch_size=batch_size), "scoring documents"):
            labels = batch["labels"][:, 1:].to(device)  # (B, T - 1)
            logits = model(
                input_ids=batch["input_ids"].to(device),
                attention_mask=batch["attention_mask"].to(device),
                use_cache=False,
            ).logits[:, :-1]  # (B, T - 1, V)
            nats = nn.functional.cross_entropy(
                logits.float().transpose(1, 2), labels, reduction="none", ignore_index=-100
            ).sum(1)  # (B,)
            n, n_targets = batch["attention_mask"].sum(1), labels.ne(-100).sum(1)
            sums.add(
                "model", batch["document"], nats=nats, n_targets=n_targets,
                n_bytes=batch["target_bytes"], positions=n, flops=cost.total(n, n_targets),
            )  # fmt: skip
    return sums


def coder_baselines(train: Iterable[str], validation: Iterable[str], targets: str) -> list[Measure]:
    """Return what coders without a language model need for the validation text.

    `uniform`: 8 bits per byte. `xz`: the text compressed alone. `xz_primed`: the bytes that it adds
    to the compressed training text, for a coder that has seen the training text, as a model has,
    as far as xz can remember: its first 64 MiB. At most 16 MiB of validation text are compressed.
    """
    texts, is_all = _first(validation, HELD_OUT)
    held_out, seen = b"".join(texts), b"".join(_first(train, DICTIONARY)[0])
    targets = targets if is_all else f"the first {len(texts)} of {targets}"
    about: dict[str, Any] = {"n": len(texts), "targets": targets}

    def bits(n_bytes: int) -> float:
        return 8 * n_bytes / len(held_out)

    primed = _xz(seen + held_out) - _xz(seen)
    return [
        Measure("uniform", "bits_per_byte", 8.0, **about),
        Measure("xz", "bits_per_byte", bits(_xz(held_out)), **about),
        Measure("xz_primed", "bits_per_byte", bits(primed), **about),
    ]


def _first(texts: Iterable[str], most: int) -> tuple[list[bytes], bool]:
    """Return the first texts, up to the one that fills `most` bytes, and whether these are all."""
    found: list[bytes] = []
    size = 0
    for text in texts:
        if size >= most:
            return found, False
        found.append(text.encode())
        size += len(found[-1])
    return found, True


def _xz(content: bytes) -> int:
    return len(lzma.compress(content, preset=9 | lzma.PRESET_EXTREME))
