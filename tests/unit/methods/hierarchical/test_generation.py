"""Decoding against a loop that recomputes everything, and a text that comes back."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import get_cosine_schedule_with_warmup

from terse.methods.hierarchical.compressor import Sequence
from terse.methods.hierarchical.generation import (
    byte_rows,
    compress,
    decompress,
    generate_bytes,
    text_of,
)
from terse.methods.hierarchical.method import Hierarchical
from terse.methods.hierarchical.model import HierarchicalAutoencoder
from terse.methods.hierarchical.segmentation import offsets, opened, segment_ids
from terse.methods.hierarchical.settings import BOS, PAD
from terse.methods.hierarchical.storage import save_model
from terse.training.method import Inputs
from tiny_hierarchical import model, settings


def overfitted(method: Hierarchical, texts: list[bytes]) -> HierarchicalAutoencoder:
    """Return a model trained on a few texts; the learning rate rises, then falls to 0."""
    torch.manual_seed(1)
    steps, model = method.settings.max_steps, method.build()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=3e-3, weight_decay=0.0)
    schedule = get_cosine_schedule_with_warmup(optimizer, 20, steps)
    batch = {"ids": byte_rows(texts)}
    for _ in range(steps):
        loss, _ = method.loss(model, batch, method.count(batch))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        model.after_step()
    return model.eval()


@pytest.mark.slow
def test_an_overfitted_text_comes_back_byte_for_byte(tmp_path: Path) -> None:
    texts = [b"The codes are few.", b"Bytes are many, \xff\x00 too.", b"And back again!"]
    level = {"dim": 48, "heads": 4, "num_queries": 2, "codebook_size": 16, "vq_decay": 0.9}
    level |= {"window": 32, "vq_reset_interval": 25, "max_segment_len": 3, "entropy_delta": 0.5}
    one = overfitted(Hierarchical(settings(level, top=None, max_steps=300), Inputs()), texts)
    save_model(one, tmp_path)
    above = settings(
        level, level, top=None, max_steps=300, base="one", tokenizer=None, freeze_levels=1
    )
    two = overfitted(Hierarchical(above, Inputs(base=tmp_path)), texts)
    n_segments = []
    for trained in (one, two):
        codes = compress(trained, texts)
        assert decompress(trained, codes) == texts
        n_segments.append(codes.n.sum().item())
    assert n_segments[1] < n_segments[0] < sum(map(len, texts)) / 2


def test_the_model_itself_compresses_restores_and_writes() -> None:
    found, texts = model({"max_segment_len": 3}), [b"bytes are many", b"codes"]
    codes = found.compress(texts)
    assert torch.equal(codes.codes, compress(found, texts).codes)
    assert found.decompress(codes) == decompress(found, codes)
    assert found.generate_bytes(texts, 9) == generate_bytes(found, texts, 9)
    assert all(len(text) <= 9 for text in found.generate_bytes(texts, 9))


def naively_decoded(found: HierarchicalAutoencoder, rows: Tensor, n: int) -> bytes:
    """Return the greedy decoding of one row of codes (1, N, L, W), all of it anew for each byte."""
    compressor, expander = found.levels[0]
    ids = [BOS]
    while len(ids) <= found.settings.expander_max_len:
        sequence = Sequence(torch.tensor([*ids, 0])[None, :, None], torch.ones(1, len(ids) + 1))
        entropies = compressor.head.entropy(compressor.lm(compressor.shared(
            compressor.inputs(sequence))))  # fmt: skip
        opens = opened(entropies, compressor.rule, compressor.shift)
        if int(segment_ids(opens)[0, -1]) >= n:
            break
        states = expander(sequence.digits, segment_ids(opens), offsets(opens), rows)
        ids.append(int(expander.head.logits(states, sequence.digits[:, 1:])[0][0, -1].argmax()))
        if ids[-1] >= BOS:
            break
    return text_of(ids[1:])


def test_decoding_equals_a_loop_that_recomputes_everything() -> None:
    found = model({"max_segment_len": 3}, expander_max_len=60)
    texts = [b"some text here", b"and another one, quite a bit longer", b"x"]
    codes = compress(found, texts)
    with torch.inference_mode():
        rows_of = found.levels[0][0].rows_of(codes.codes)
        expected = [
            naively_decoded(found, rows_of[i : i + 1], int(codes.n[i])) for i in range(len(texts))
        ]
    assert decompress(found, codes) == expected
    assert max(map(len, expected)) > 10


def test_decoding_knows_nothing_but_the_codes(built: HierarchicalAutoencoder) -> None:
    texts = [b"some text here", b"and another one, longer", b""]
    together = decompress(built, compress(built, texts))
    assert together == [decompress(built, compress(built, [text]))[0] for text in texts]


def test_text_survives_as_bytes() -> None:
    text = bytes(range(256)) + b"\xff\xfe\x80"
    ids = byte_rows([text, b""])
    assert ids.shape == (2, 261)
    assert ids[0, 0] == BOS
    assert ids[1, 2] == PAD
    assert text_of(ids[0, 1:].tolist()) == text
    assert text_of(ids[1, 1:].tolist()) == b""
