"""The honest score is one, its arms are at the same budget, and the cheat does not win it."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from terse.corpora.token_store import TokenStore
from terse.methods.forgetting.evaluation import binary_entropy, rows_of, score_arms
from terse.methods.forgetting.model import all_targets
from terse.methods.forgetting.modes import score
from terse.methods.forgetting.packing import Rows
from terse.training.method import Inputs


def test_every_arm_at_every_rate_on_the_same_targets(published: Any, inputs: Inputs) -> None:
    method, model = published
    given = method._evaluated(model, "cpu")
    sums = score_arms(given)
    arms = ("mask", "recency", "sink_recency", "random", "norm", "surprisal", "saliency")
    names = {f"{arm}-f{rate}" for arm in arms for rate in (0.25, 0.5)} | {"identity", "base"}
    assert set(sums.arms) == names
    of = {arm: {name: c.sum() for name, c in sums[arm].items()} for arm in sums.arms}
    assert all((total["free"] == of["identity"]["free"]) for total in of.values())
    for arm, total in of.items():
        rate = float(arm.rpartition("-f")[2]) if "-f" in arm else 0.0
        slack = 0.05 if arm.startswith("mask") else 0.03
        assert total["dropped"] / total["free"] == pytest.approx(rate, abs=slack)
        assert (total["told_bits"] > 0) == arm.startswith("saliency")
    rows = rows_of([given.rows[i] for i in range(len(given.rows))], "cpu")
    n_bytes = sum(given.rows[i]["target_bytes"] for i in range(len(given.rows)))
    for total in of.values():
        assert (total["n_targets"], total["n_bytes"]) == (rows.is_target.sum(), n_bytes)
    with torch.no_grad():
        every = torch.ones_like(rows.attention_mask)
        assert of["identity"]["nats"] == pytest.approx(
            float(model.score(rows, every, "prefix").nats.sum()), rel=1e-5
        )
        before = score(given.before, rows, every, "prefix").nats.sum()
        assert of["base"]["nats"] == pytest.approx(float(before), rel=1e-5)
        keep = model.decisions(rows, "prefix", 0.5)
        found = float(model.score(rows, keep, "prefix").nats.sum())
        assert of["mask-f0.5"]["nats"] == pytest.approx(found, rel=1e-5)
    assert {arm for arm in of if "n_kept" in of[arm]} == {"mask-f0.25", "mask-f0.5"}
    assert 0 < of["mask-f0.5"]["n_kept"] < of["mask-f0.5"]["n_targets"]


def test_the_table_says_what_is_not_comparable(published: Any) -> None:
    method, model = published
    measures = method.evaluate(model, "cpu")
    table = pd.DataFrame([vars(m) for m in measures]).set_index(["arm", "measure"])
    for arm in ("identity", "mask-f0.5", "saliency-f0.25"):
        assert table.loc[(arm, "perplexity"), "value"] == pytest.approx(
            math.exp(table.loc[(arm, "loss_nats"), "value"])
        )
    assert "not comparable" in table.loc[("mask-f0.5", "kept_only_loss_nats"), "flag"]
    paid = table.loc[("saliency-f0.5", "bits_per_byte"), "value"]
    unpaid = table.loc[("saliency-f0.5", "unpaid_bits_per_byte"), "value"]
    assert paid > unpaid
    gain = table.loc[("mask-f0.5", "gain_over_recency_bits_per_byte"), "value"]
    bits = table["value"].xs("bits_per_byte", level="measure")
    assert gain == pytest.approx(bits["recency-f0.5"] - bits["mask-f0.5"], abs=1e-9)
    over = table["value"].xs("over_identity_bits_per_byte", level="measure")
    assert set(over.index) == set(bits.index) - {"identity"}
    assert over["norm-f0.5"] == pytest.approx(bits["norm-f0.5"] - bits["identity"], abs=1e-9)
    assert over["saliency-f0.5"] == pytest.approx(paid - bits["identity"], abs=1e-9)
    for measure in ("positions_per_byte", "flops_per_byte"):
        fewer = table["value"].xs(measure, level="measure")
        assert fewer["mask-f0.5"] < fewer["mask-f0.25"] < fewer["identity"]
    targets = set(table["targets"].xs("bits_per_byte", level="measure"))
    assert len(targets) == 1
    assert targets.pop().startswith("40 of ")
    again = method.evaluate(model, "cpu")
    assert [vars(m) for m in again] == [vars(m) for m in measures]


def test_coins_are_told_in_bits() -> None:
    assert binary_entropy(0.5) == 1.0
    assert binary_entropy(0.25) == pytest.approx(0.811278, abs=1e-6)
    assert binary_entropy(0.0) == binary_entropy(1.0) == 0.0


def peeking(nats: Tensor, share: float) -> Tensor:
    """Return decisions (B, T) that drop the tokens before the hardest targets, `share` of them."""
    before = torch.nn.functional.pad(nats[:, 1:], (0, 1))
    n = int(share * (nats.shape[1] - 2))
    worst = before[:, 1:-1].topk(n, 1).indices + 1
    return torch.ones_like(nats, dtype=torch.bool).scatter(1, worst, False)


def test_the_cheat_wins_the_kept_only_number_and_loses_the_honest_one(inputs: Inputs) -> None:
    """Dropping the 10 % hardest targets, with a model that knows something of the text."""
    assert inputs.tokens is not None
    store = TokenStore(inputs.tokens, "train")
    n, T = 160, 48
    ids = torch.from_numpy(store.tokens[: n * T].astype(np.int64)).reshape(n, T)
    torch.manual_seed(0)
    lm = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=2, max_position_embeddings=T,
        )
    )  # fmt: skip
    optimizer = torch.optim.AdamW(lm.parameters(), lr=1e-2)
    for step in range(120):
        batch = ids[(step % 4) * 32 : (step % 4 + 1) * 32]
        logits = lm(input_ids=batch).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    lm.eval().requires_grad_(False)
    held_out = ids[128:]
    real = torch.ones_like(held_out, dtype=torch.bool)
    rows = all_targets(Rows(held_out, real, real))
    whole = score(lm, rows, real, "kv").nats
    keep = peeking(whole, 0.1)
    fair = score(lm, rows, real, "kv").nats[:, 1:].mean()
    assert fair < 4.5  # it has learned something: ln 300 is 5.7
    cheated = score(lm, rows, keep, "pack")
    kept_only = cheated.nats.sum() / cheated.scored.sum()
    assert kept_only < fair - 0.3
    honest = score(lm, rows, keep, "kv").nats[:, 1:].mean()
    assert honest > fair - 0.05
    told = math.log(2) * binary_entropy(0.1)
    assert honest + told > fair + 0.3
    torch.manual_seed(0)
    at_random = (torch.rand(keep.shape) > 0.1) | ~real
    at_random[:, 0] = True
    plain = score(lm, rows, at_random, "pack")
    assert kept_only < plain.nats.sum() / plain.scored.sum() - 0.3
