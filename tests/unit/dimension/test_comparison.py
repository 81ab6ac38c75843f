"""Layers and models are compared context by context."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from terse.dimension.comparison import between_layers, between_models


@pytest.fixture
def table() -> Callable[..., pd.DataFrame]:
    """Return a function that makes a table whose IDs grow by 2 a layer, from `start` on."""

    def make(model: str, start: float, layers: tuple[int, ...] = (0, 1, 4)) -> pd.DataFrame:
        random = np.random.default_rng(0)
        of_context = random.normal(size=(5, 2))  # shared by all layers and models
        modules = [("block", layer) for layer in layers] + [("norm", pd.NA)]
        made = pd.DataFrame(
            [
                {
                    "model": model, "module": kind, "layer": layer, "estimator": "mle",
                    "document": f"d{d}", "chunk": c, "n_eff": 64,
                    "id": start + (9 if layer is pd.NA else 2 * layer) + of_context[d, c],
                }
                for kind, layer in modules for d in range(5) for c in range(2)
            ]
        ).astype({"layer": "Int64"})  # fmt: skip
        return made.assign(id_without_sinks=made["id"], n_heavy=0, flags="")

    return make


def part(found: pd.DataFrame, sinks: str) -> pd.DataFrame:
    """Return the rows with or without sinks."""
    return found.loc[found["sinks"] == sinks]


def test_each_layer_against_the_one_before(table: Callable[..., pd.DataFrame]) -> None:
    found = part(between_layers(table("base", 3.0)), "with")
    assert found["layer"].tolist() == [1, 4]  # nothing comes before layer 0, or beside the norm
    assert found["against"].tolist() == ["layer 0", "layer 1"]
    np.testing.assert_allclose(found["mean"], [2, 6])
    np.testing.assert_allclose(found["standard_error"], 0, atol=1e-12)  # pairs share the context
    assert found["n"].tolist() == [10, 10]
    assert found["n_documents"].tolist() == [5, 5]
    assert set(found["comparison"]) == {"layer"}


def test_each_model_against_the_one_before(table: Callable[..., pd.DataFrame]) -> None:
    both = between_models(table("late", 5.5), table("early", 3.0, layers=(0, 1)))
    found = part(both, "with")
    assert found["layer"].fillna(-1).tolist() == [0, 1, -1]  # only what both have
    np.testing.assert_allclose(found["mean"], 2.5)
    assert set(found["against"]) == {"early"}
    assert set(found["model"]) == {"late"}


def test_unequal_clouds_are_counted_not_compared(table: Callable[..., pd.DataFrame]) -> None:
    early = table("early", 3.0)
    early.loc[early["document"] == "d0", "n_eff"] = 60
    found = between_models(table("late", 4.0), early)
    assert (found["n"] == 8).all()
    assert (found["n_unequal"] == 2).all()


def test_differences_without_sinks_stand_beside_those_with_them(
    table: Callable[..., pd.DataFrame],
) -> None:
    early, late = table("early", 3.0), table("late", 4.0)
    late["id"] += 10  # as a sink lifts them
    late = late.assign(n_heavy=1, flags="sink")
    found = between_models(late, early)
    np.testing.assert_allclose(part(found, "with")["mean"], 11)
    np.testing.assert_allclose(part(found, "without")["mean"], 1)
    assert (found["n"] == 10).all()


def test_clouds_that_lose_many_more_points_are_not_compared(
    table: Callable[..., pd.DataFrame],
) -> None:
    early, late = table("early", 3.0), table("late", 4.0)
    late.loc[late["document"] == "d0", "n_heavy"] = 2  # of 64
    found = between_models(late, early)
    assert (part(found, "with")["n"] == 10).all()
    assert (part(found, "without")["n"] == 8).all()
    left_out = late.assign(flags="sinks")  # n_eff does not count them already
    assert (part(between_models(left_out, early), "without")["n"] == 10).all()


def test_one_layer_makes_an_empty_table(table: Callable[..., pd.DataFrame]) -> None:
    found = between_layers(table("base", 3.0, layers=(2,)))
    assert len(found) == 0
    assert list(found.columns[:3]) == ["comparison", "model", "against"]
