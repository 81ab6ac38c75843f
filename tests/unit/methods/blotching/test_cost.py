"""Costs by hand and against the shares that were asked for."""

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from terse.methods.blotching.cost import cost_table, multiplications
from terse.methods.blotching.model import Blotcher
from tiny_blotching import blotching, built


def test_multiplications_are_those_of_matrices_and_pairs() -> None:
    lengths = torch.tensor([3, 5])
    llama = built(blotching())
    matrices = 2 * (4 * 16 * 16 + 3 * 16 * 44) + 18 * 16  # blocks, head; embeddings: looked up
    assert multiplications(llama, lengths) == 8 * matrices + (9 + 25) * 2 * 16
    config = GPT2Config(vocab_size=50, n_positions=16, n_embd=8, n_layer=1, n_head=1)
    tied = Blotcher(GPT2LMHeadModel(config), 0)
    assert multiplications(tied, lengths) == 8 * (12 * 8 * 8 + 50 * 8) + (9 + 25) * 8


def test_costs_are_of_the_shares_that_may_be_asked_for() -> None:
    method = blotching(blotch_p_min=0.3, blotch_p_max=0.4)
    table = cost_table(built(method), method.layout, method.validation_chains, rounds=1)
    np.testing.assert_allclose(table["p"], [0.3, 0.325, 0.35, 0.375, 0.4])
    assert (table["theory_ratio"].iloc[0], table["step_ratio"].iloc[0]) == (1, 1)


def test_fewer_steps_cost_less() -> None:
    method = blotching(d_model=64, n_problems=100, n_val_problems=40, batch_size=40, max_num=99)
    table = cost_table(built(method), method.layout, method.validation_chains, rounds=3)
    assert list(table["p"]) == [0.0, 0.25, 0.5, 0.75, 1.0]
    for column in ("tokens_per_chain", "theory_ratio"):
        assert table[column].is_monotonic_decreasing
    assert table["theory_ratio"].iloc[-1] < 0.5
    assert table["step_ratio"].iloc[-1] < 1
