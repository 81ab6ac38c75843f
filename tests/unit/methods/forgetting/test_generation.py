"""Cached writing equals a pass that recomputes everything."""

from typing import Any

import pytest
import torch

from terse.config.methods import settings_of
from terse.errors import TerseError
from terse.methods.forgetting.decisions import Calibration
from terse.methods.forgetting.generation import Writer
from terse.methods.forgetting.masks import MLPForgetMask
from terse.methods.forgetting.model import Forgetter
from terse.methods.forgetting.packing import pack
from tiny_forgetting import SETTINGS, language_model
from tiny_lms import random_tokens


def forgetter(architecture: str, **changes: Any) -> Forgetter:
    """Return an untrained model whose mask keeps about half."""
    settings: Any = settings_of(SETTINGS | changes)
    lm = language_model(architecture)
    torch.manual_seed(2)
    model = Forgetter(lm, MLPForgetMask(lm, 8), settings, (1, 2)).eval()
    ids = random_tokens(16, 40, seed=8)
    real = torch.ones_like(ids, dtype=torch.bool)
    with torch.no_grad():
        model.calibration = Calibration.of(model.mask(ids, real), real)
    return model


@torch.no_grad()
def recomputed(writer: Writer, prompt: list[int], n: int) -> list[int]:
    """Write on by packing the whole text anew for each token."""
    ids = list(prompt)
    for _ in range(n):
        row = torch.tensor([ids])
        keep = writer.keeps(row, torch.ones_like(row, dtype=torch.bool))
        keep[:, -1] = True
        packed = pack(row, keep, positions=writer.model.settings.positions)
        logits = writer.model.lm(
            input_ids=packed.input_ids, position_ids=packed.position_ids,
            attention_mask=packed.attention_mask.long(),
        ).logits  # fmt: skip
        ids.append(int(logits[0, -1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen2", "gpt_neox"])
@pytest.mark.parametrize("positions", ["original", "compact"])
def test_cached_writing_equals_recomputed(architecture: str, positions: str) -> None:
    model = forgetter(architecture, positions=positions)
    ids = random_tokens(3, 14, seed=1)
    lengths = torch.tensor([14, 9, 12])
    real = torch.arange(14) < lengths[:, None]
    writer = Writer(model, 0.5)
    written, cache = writer.write(ids, real, 10)
    expected = [recomputed(writer, ids[i, :n].tolist(), 10) for i, n in enumerate(lengths.tolist())]
    assert written.tolist() == expected
    # The cache holds kept tokens only: of each text but its last token, which was not fed back.
    for i, n in enumerate(lengths.tolist()):
        text = torch.tensor([ids[i, :n].tolist() + expected[i][:-1]])
        kept = writer.keeps(text, torch.ones_like(text, dtype=torch.bool))
        assert int(cache.lengths[i]) == int(kept.sum())
        assert int(kept.sum()) < text.shape[1]
    assert cache.states.layers[0].keys.shape[2] == int(cache.lengths.max())
    if positions == "original":
        hidden, hidden_cache = Writer(model, 0.5, "kv").write(ids, real, 10)
        assert torch.equal(hidden, written)
        assert torch.equal(hidden_cache.lengths, cache.lengths)


def test_writing_with_all_tokens_is_the_models_own() -> None:
    model = forgetter("llama")
    ids = random_tokens(2, 12, seed=4)
    real = torch.ones_like(ids, dtype=torch.bool)
    written, cache = Writer(model, 0.0).write(ids, real, 6)
    own: Any = model.lm
    expected = own.generate(
        input_ids=ids, attention_mask=real.long(), max_new_tokens=6, do_sample=False,
        eos_token_id=None, pad_token_id=0,
    )[:, 12:]  # fmt: skip
    assert torch.equal(written, expected)
    assert cache.lengths.tolist() == [17, 17]


def test_masks_that_look_ahead_do_not_write() -> None:
    with pytest.raises(TerseError, match="would revise decisions"):
        Writer(forgetter("llama", decide="topk"), 0.5)
