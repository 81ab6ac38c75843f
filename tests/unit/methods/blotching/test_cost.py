"""What leaving steps out saves: FLOPs against passes over single chains, counted by torch."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from terse.corpora.arithmetic.characters import decode
from terse.evaluation.flops import lm_flops
from terse.methods.blotching.cost import cost_table
from terse.methods.blotching.evaluation import Evaluation
from terse.methods.blotching.model import Blotcher
from terse.methods.blotching.rows import RequestedRows, collate
from tiny_blotching import blotching, built
from torch_flops import flops_by_torch


def pass_over(model: Blotcher, row: dict[str, Any]) -> int:
    batch = collate([row], 0)
    names = ("input_ids", "attention_mask", "position_ids")
    return flops_by_torch(lambda: model(*(batch[name] for name in names)))


@pytest.mark.parametrize("excise", [pytest.param(True, marks=pytest.mark.slow), False])
def test_chains_cost_what_their_passes_do(excise: bool) -> None:
    method = blotching(excise_tokens=excise, incl_intl_prob=True)
    model, chains = built(method), method.validation_chains
    e = Evaluation(model, method.layout, chains, method.arithmetic)
    measures = {(m.arm, m.measure): m for m in e.measures()}
    n_bytes = sum(len(decode(chain.tokens[:-1]).encode()) for chain in chains)
    head = lm_flops(model.lm).head  # a pass computes it after the last token too
    for p in (0.0, 1.0):
        rows = [RequestedRows(chains, method.layout, p)[i] for i in range(len(chains))]
        flops = sum(pass_over(model, row) - head * (row["labels"] == -100).sum() for row in rows)
        n_positions = sum(len(row["input_ids"]) for row in rows)
        found = measures[f"chains p={p:g}", "flops_per_byte"]
        assert found.value == pytest.approx(flops / n_bytes, rel=0.01)
        assert "12 held-out problems" in found.targets
        positions = measures[f"chains p={p:g}", "positions_per_byte"].value
        assert positions == pytest.approx(n_positions / n_bytes)
    whole, left = (measures[f"chains p={p}", "positions_per_byte"].value for p in (0, 1))
    assert (left < whole) == excise  # what is only masked is computed all the same


def test_tied_heads_count_and_positions_do_not() -> None:
    config = GPT2Config(vocab_size=50, n_positions=16, n_embd=8, n_layer=1, n_head=1)
    model = Blotcher(GPT2LMHeadModel(config).eval(), 0)
    ids = torch.randint(0, 50, (1, 7))
    expected = flops_by_torch(lambda: model(ids, torch.ones_like(ids), torch.arange(7)[None]))
    assert expected == 2 * (7 * (12 * 8 * 8 + 50 * 8) + 2 * 8 * 7 * 7)
    assert lm_flops(model.lm).total(7, 7) == pytest.approx(expected, rel=0.01)


def test_costs_are_of_the_shares_that_may_be_asked_for() -> None:
    method = blotching(blotch_p_min=0.3, blotch_p_max=0.4)
    table = cost_table(built(method), method.layout, method.validation_chains, rounds=1)
    np.testing.assert_allclose(table["p"], [0.3, 0.325, 0.35, 0.375, 0.4])
    assert table.loc[0, ["forward_flops_ratio", "step_ratio"]].eq(1).all()


def test_fewer_steps_cost_less() -> None:
    method = blotching(d_model=64, n_problems=100, n_val_problems=40, batch_size=40, max_num=99)
    table = cost_table(built(method), method.layout, method.validation_chains, rounds=3)
    assert list(table["p"]) == [0.0, 0.25, 0.5, 0.75, 1.0]
    for column in ("tokens_per_chain", "forward_flops"):
        assert table[column].is_monotonic_decreasing
    assert table["forward_flops_ratio"].iloc[-1] < 0.5
    assert table["step_ratio"].iloc[-1] < 1
