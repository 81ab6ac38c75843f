"""Cached decoding equals teacher forcing."""

from typing import Any

import pytest
import torch
from torch import nn

from terse.methods.compression.generation import generate
from tiny_compressor import ARCHITECTURES, compressor, read
from tiny_lms import random_tokens


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@torch.no_grad()
def test_cached_decoding_equals_teacher_forcing(architecture: str) -> None:
    model = compressor(architecture)
    context = random_tokens(2, 6)
    Z = model.compress(context, torch.ones_like(context))
    out: Any = generate(
        model, Z, 8, min_new_tokens=8, output_logits=True, return_dict_in_generate=True
    )
    logits = torch.stack(out.logits, 1)  # (B, new, V)
    written = out.sequences[:, -8:]
    torch.testing.assert_close(read(model, Z, written), logits, rtol=1e-4, atol=1e-4)
    unforced = generate(model, Z, 8, eos_token_id=None)
    greedy = torch.empty(2, 0, dtype=torch.long)
    for t in range(8):  # without a cache
        padded = nn.functional.pad(greedy, (0, 1))
        greedy = torch.cat([greedy, read(model, Z, padded)[:, t].argmax(-1, keepdim=True)], 1)
    assert torch.equal(unforced, greedy)
