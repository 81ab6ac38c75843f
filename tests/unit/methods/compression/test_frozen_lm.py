"""Hidden states and logits of the frozen base."""

import pytest
import torch

from terse.errors import TerseError
from terse.methods.compression.frozen_lm import (
    blocks_of,
    embed,
    hidden_state,
    layer_index,
    logits_of,
    written_after,
)
from tiny_compressor import ARCHITECTURES
from tiny_lms import BLOCKS, random_tokens, tiny_lm


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@torch.no_grad()
def test_hidden_states_are_those_of_transformers_and_later_blocks_do_not_run(
    architecture: str,
) -> None:
    lm, tokens = tiny_lm(architecture), random_tokens(2, 7)
    mask = torch.ones_like(tokens)
    states = lm(tokens, output_hidden_states=True).hidden_states
    ran: list[int] = []
    for i, block in enumerate(blocks_of(lm)):
        block.register_forward_hook(lambda *_, i=i: ran.append(i))
    for index in range(BLOCKS + 1):
        ran.clear()
        found = hidden_state(lm, embed(lm, tokens), mask, index)
        torch.testing.assert_close(found, states[index], rtol=1e-5, atol=1e-5)
        assert ran == list(range(index))


def test_layers_by_index_from_both_ends() -> None:
    assert [layer_index(i, 4) for i in (0, 4, -1, -2, -5, "half")] == [0, 4, 4, 3, 0, 2]
    for wrong in (5, -6):
        with pytest.raises(TerseError, match=r"allowed: -5\.\.4, half, output"):
            layer_index(wrong, 4)


@torch.no_grad()
def test_only_the_asked_logits_come_back() -> None:
    lm = tiny_lm("gpt2")
    tokens = random_tokens(2, 7)
    found = logits_of(lm, embed(lm, tokens), torch.ones_like(tokens), 3)
    torch.testing.assert_close(found, lm(tokens).logits[:, -3:])
    written = written_after(lm, embed(lm, tokens), 4, min_new_tokens=4)
    assert written.shape == (2, 4)
    lm.config.eos_token_id = [2, 5]  # as Llama 3 has it
    assert torch.equal(written_after(lm, embed(lm, tokens), 4, min_new_tokens=4), written)
