"""Each arm's positions and FLOPs against its own passes over single windows, counted by torch."""

from typing import Any

import pytest
import torch

from terse.methods.compression.arms import ARMS, ScoredBatch, arms_of
from terse.methods.compression.cost import ArmCosts, cache_bytes, cost_table
from terse.methods.compression.evaluation import paired_rows
from terse.methods.compression.model import Batch, Compressor
from terse.training.method import Inputs
from tiny_compression import compression
from torch_flops import flops_by_torch

KINDS: dict[str, dict[str, Any]] = {
    "plain": {"static_control": True},
    "half": {"cmp_layer": "half", "sep_cmpr": True},
    "projected": {"proj_cmpr": True, "proj_hid_mult": 2.0},
    "output": {"cmp_layer": "output"},
    "lora": {"lora_rank": 3},
}


def short(row: dict[str, Any]) -> dict[str, Any]:
    """Return a window that ends after three new tokens, padded to its old length."""
    row = dict(row)
    for name in ("target_mask", "is_new"):
        row[name] = row[name] * (torch.arange(len(row[name])) < 3)
    return row


def alone(row: dict[str, Any]) -> Batch:
    """Return a window as a batch without padding."""
    context, target = row["context_mask"].bool(), row["target_mask"].bool()
    of = {"context": context, "context_mask": context}
    fields = Batch.__dataclass_fields__
    return Batch(**{name: row[name][of.get(name, target)][None] for name in fields})


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_each_arm_costs_what_its_passes_do(kind: dict[str, Any], inputs: Inputs) -> None:
    method = compression(inputs, cmp_len=12, seq_len=22, **kind)
    model, windows = method.build().eval(), method._evaluated
    costs = ArmCosts.of(model)
    rows, others = next(paired_rows(windows, 1))
    for row in (rows[0], short(rows[0])):
        at = ScoredBatch(alone(row), alone(others[0]), start=0)
        for arm in arms_of(model):
            expected = flops_by_torch(lambda arm=arm, at=at: ARMS[arm](model, at))
            _, flops = costs.of_arm(arm, at)
            assert flops.item() == pytest.approx(expected, rel=0.01), arm


def test_positions_are_those_of_all_passes(inputs: Inputs) -> None:
    method = compression(inputs, cmp_len=12, seq_len=22, n_cmps=3, sep_cmpr=True)
    model, windows = method.build().eval(), method._evaluated
    rows, others = next(paired_rows(windows, 1))
    at = ScoredBatch(alone(rows[0]), alone(others[0]), start=0)
    found = {arm: ArmCosts.of(model).of_arm(arm, at)[0].item() for arm in arms_of(model)}
    assert at.batch.target.shape == (1, 10)
    assert found == {
        "low": 1 + 9, "high": 12 + 9, "compressed": (12 + 1 + 3) + (3 + 1 + 9),
        "shuffled": (12 + 1 + 3) + (3 + 1 + 9), "tail": 4 + 9, "mean_pool": 12 + (3 + 1 + 9),
    } | ({"static": 3 + 1 + 9} if "static" in found else {})  # fmt: skip


def test_padding_costs_nothing(inputs: Inputs) -> None:
    method = compression(inputs)
    model, windows = method.build().eval(), method._evaluated
    rows, others = next(paired_rows(windows, 1))
    costs, fields = ArmCosts.of(model), Batch.__dataclass_fields__
    row, other = short(rows[0]), others[0]
    padded = [Batch(**{name: one[name][None] for name in fields}) for one in (row, other)]
    for arm in arms_of(model):
        one = costs.of_arm(arm, ScoredBatch(alone(row), alone(other), start=0))
        assert costs.of_arm(arm, ScoredBatch(padded[0], padded[1], start=0)) == one


def test_the_table_of_a_context(inputs: Inputs) -> None:
    method = compression(inputs)
    table = cost_table(method.build().eval(), method._evaluated).set_index("way")
    flops = table["forward_flops"]
    assert flops["compressed"] < flops["high"] < flops["compressing"]
    assert table.loc["high"].filter(like="_ratio").eq(1).all()
    assert torch.tensor(flops.to_list()).isfinite().all()


@torch.no_grad()
def test_cache_bytes_are_those_of_the_keys_and_values(model: Compressor) -> None:
    assert cache_bytes(model, torch.randn(1, 5, 16)) == 5 * 3 * 2 * 16 * 4
