"""Tables of the report against naive ones."""

from collections import Counter

import pytest

from terse.methods.blotching.losses import chain_losses
from terse.methods.blotching.tables import answers_table, length_table
from terse.training.method import Inputs
from tiny_blotching import TEXT, blotching, built, evaluated


def test_scored_windows_are_spread_evenly(text_inputs: Inputs) -> None:
    method = blotching(text_inputs, **TEXT | {"n_val_problems": 3, "arm": "vanilla"})
    chains = method.validation_chains
    every = blotching(text_inputs, **TEXT | {"n_val_problems": 10**6, "arm": "vanilla"})
    model = built(method)
    found = method.tables(model, "cpu")["losses"]
    chosen = [0, len(chains) // 3, 2 * len(chains) // 3]
    nats = chain_losses(model, every.layout, [chains[i] for i in chosen], 0.0)
    assert len(chains) > 6
    assert found["loss_nats"][0] == pytest.approx(nats["nats"].sum() / nats["n_targets"].sum())


def test_lengths_are_of_the_whole_chains() -> None:
    _, e = evaluated()
    table = length_table(e)
    gold = Counter(chain.n_droppable for chain in e.chains)
    assert len(gold) > 1
    for _, rows in table.groupby("requested_p"):
        assert dict(zip(rows["steps"], rows["n_problems"], strict=True)) == gold
    direct = answers_table(evaluated(arm="direct")[1])
    assert set(direct["requested_p"]) == {1.0}
