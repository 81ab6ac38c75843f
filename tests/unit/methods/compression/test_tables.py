"""Tables of the report."""

import pytest
import torch

from terse.methods.compression.model import Compressor
from terse.training.method import Inputs
from tiny_compression import compression


def test_tables_show_samples_and_cost(model: Compressor, inputs: Inputs) -> None:
    tables = compression(inputs).tables(model, "cpu")
    samples = tables["samples"]
    assert list(samples) == [
        "context", "what_follows", "with_context", "with_vectors", "with_nothing",
    ]  # fmt: skip
    assert len(samples) == 2
    assert samples["context"].str.len().min() > 5
    cost = tables["cost"].set_index("way")
    assert list(cost.index) == ["high", "compressed", "compressing"]
    assert cost.loc["compressed", "positions_ratio"] == 3 / 8
    assert (cost["time_to_first_token_s"] > 0).all()
    assert (
        cost.loc["compressing", "time_to_first_token_s"]
        > (cost.loc["compressed", "time_to_first_token_s"])
    )


def test_what_a_reproducing_run_writes_is_a_sample(inputs: Inputs) -> None:
    method = compression(inputs, rmb_task=True, n_samples=1, eval_windows=8)
    samples = method.tables(method.build().eval(), "cpu")["samples"]
    assert samples["reproduced"].str.len().gt(0).all()


def test_dimensions_are_those_of_the_vectors_over_contexts(
    model: Compressor, inputs: Inputs
) -> None:
    from terse.dimension import estimate
    from terse.methods.compression.tables import clouds, dimensions_table

    windows = compression(inputs)._evaluated
    found = clouds(model, windows)
    assert set(found) == {"vector-0", "vector-1", "mean", "last_token", "token_mean"}
    with torch.no_grad():
        for i in (0, 7, 39):
            context = windows[i]["context"][None]
            Z = model.compress(context, torch.ones_like(context))[0]
            torch.testing.assert_close(found["vector-1"][i], Z[1], rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(found["mean"][i], Z.mean(0), rtol=1e-4, atol=1e-4)
            states = model.lm(context, output_hidden_states=True).hidden_states[-2][0]
            torch.testing.assert_close(found["last_token"][i], states[-1], rtol=1e-4, atol=1e-4)
            mean = states.mean(0)
            torch.testing.assert_close(found["token_mean"][i], mean, rtol=1e-4, atol=1e-4)
    table = dimensions_table(model, windows).set_index(["cloud", "estimator"])
    expected = float(estimate(found["mean"], ["mle_inv"])["mle_inv"])
    assert table.loc[("mean", "mle_inv"), "id"] == pytest.approx(expected)
    assert table.loc[("mean", "mle_inv"), "n_eff"] == 40


def test_vectors_that_know_no_context_are_one_point(inputs: Inputs) -> None:
    model = compression(inputs, cmp_layer=0).build().eval()
    from terse.methods.compression.tables import dimensions_table

    table = dimensions_table(model, compression(inputs)._evaluated)
    rows = table[table["cloud"] == "vector-0"]
    assert rows["id"].isna().all()
    assert (rows["n_eff"] == 1).all()
