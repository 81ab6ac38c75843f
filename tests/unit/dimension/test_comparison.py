"""Layers and models are compared context by context."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from terse.dimension.comparison import between_layers, between_models
from terse.dimension.contexts import gathered
from terse.dimension.statistics import paired_difference
from terse.errors import TerseError


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


def test_a_table_in_parts_gives_what_pairing_context_by_context_does() -> None:
    """Against `paired_difference` of the rows themselves, some of them missing or undefined."""
    random = np.random.default_rng(4)
    sides = []
    for model, drop in (("late", 0.2), ("early", 0.1)):
        rows = pd.DataFrame(
            {
                "model": model, "module": kind, "layer": layer, "estimator": name,
                "document": f"d{d}", "chunk": c, "n_eff": 64 - (random.random() < 0.3),
                "id": np.nan if random.random() < 0.2 else random.normal(9, 1),
                "id_without_sinks": random.normal(9, 1), "n_heavy": int(random.integers(3)),
                "flags": ["", "sink", "duplicates;sinks"][random.integers(3)],
            }
            for kind in ("mlp", "block") for layer in (0, 1) for name in ("mle", "gride_2")
            for d in range(9) for c in range(3) if random.random() > drop
        ).astype({"layer": "Int64"})  # fmt: skip
        sides.append(rows)
    late, early = (gathered([side.iloc[:70], side.iloc[70:]]) for side in sides)
    found = between_models(late, early)
    assert len(found) == 2 * 8
    for _, row in found.iterrows():
        keys = ["module", "layer", "estimator"]
        a, b = (side.loc[(side[keys] == row[keys]).all(axis=1)] for side in sides)
        if row["sinks"] == "without":
            a, b = (
                one.assign(
                    id=one["id_without_sinks"],
                    n_eff=one["n_eff"]
                    - one["n_heavy"].where(~one["flags"].str.contains("sinks"), 0),
                )
                for one in (a, b)
            )
        expected = paired_difference(a, b, slack=0.02 if row["sinks"] == "without" else 0.0)
        np.testing.assert_allclose([row[name] for name in expected._fields], expected, rtol=1e-12)
    assert found["n_unpaired"].sum() > 0 < found["n_unequal"].sum()


def test_a_context_that_occurs_twice_is_refused(table: Callable[..., pd.DataFrame]) -> None:
    once = table("base", 3.0)
    with pytest.raises(TerseError, match="occurs twice"):
        between_layers(pd.concat([once, once.head(1)]))
    with pytest.raises(TerseError, match="occurs twice"):
        between_layers(pd.concat([once, once.tail(1)]))  # at the last place only
    with pytest.raises(TerseError, match="occurs twice"):
        gathered([once, once.tail(1)])  # in another part


def test_a_table_without_rows_is_refused(table: Callable[..., pd.DataFrame]) -> None:
    with pytest.raises(TerseError, match="has no rows"):
        gathered([table("m", 1.0).head(0)])


def test_clouds_that_are_no_contexts_are_compared_too(table: Callable[..., pd.DataFrame]) -> None:
    one, other = (
        table(model, start).query("document == 'd0' and chunk == 0")
        for model, start in (("late", 5.5), ("early", 3.0))
    )
    sides = (
        side.assign(document=None, chunk=pd.NA).astype({"chunk": "Int64"}) for side in (one, other)
    )
    found = part(between_models(*sides), "with")
    assert found["n"].tolist() == [1, 1, 1, 1]
    np.testing.assert_allclose(found["mean"], 2.5)
