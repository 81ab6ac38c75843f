"""Tables of the report."""

from typing import Any

import pytest

from terse.training.method import Inputs


def test_tables_show_cost_passage_and_continuations(published: Any, inputs: Inputs) -> None:
    method, model = published
    tables = method.tables(model, "cpu")
    cost = tables["cost"]
    assert list(cost["forget_rate"]) == [0.0, 0.25, 0.5]
    per_position = 3 * 2 * 16 * 4  # 3 blocks, keys and values, 2 heads of 8, float32
    assert cost["key_value_bytes"].to_numpy() == pytest.approx(cost["positions"] * per_position)
    linear = cost["positions"] / cost["positions"][0]
    assert cost["linear_ratio"].to_numpy() == pytest.approx(linear)
    assert cost["attention_ratio"].to_numpy() == pytest.approx(
        linear**2, rel=0.03
    )  # a mean of squares
    assert (cost["peak_memory_bytes"] > 1000).all()
    assert (cost["wall_s"] > 0).all()
    tokens = tables["tokens"]
    assert len(tokens) == 20
    assert tokens["keep_prob"].between(0, 1).all()
    assert tokens.loc[~tokens["droppable"], "kept"].all()
    written = tables["continuations"]
    assert written["cached_positions"].iloc[0] == 20 + 8 - 1
    assert (written["cached_positions"].diff().dropna() < 0).all()
    assert written[["bleu4", "rouge_l"]].stack().between(0, 1).all()
