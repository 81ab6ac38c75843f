"""The table of dimensions against a naive loop, one cloud at a time, whatever the cache is like."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from transformers import LlamaForCausalLM

from terse.activations import cache, table
from terse.activations.shard import cache_shard
from terse.activations.table import COLUMNS, dimension_table
from terse.dimension import estimate
from terse.errors import TerseError
from tiny_llama import N_CONTEXTS, make_settings

NAMES = ["mle", "mle_inv", "twoNN_f10"]
KEYS = ["mlp-l0", "block-l0", "mlp-l2", "block-l2", "norm"]


def cached(
    model: LlamaForCausalLM, chunks: Path, folder: Path, n_shards: int = 1, **changes: Any
) -> Path:
    """Write the activations of two blocks and the final norm; return their folder."""
    chosen = {
        "layer_idx_list": [0, 2], "module_inblock_keys": ["mlp", "block"], "save_IDs_list": NAMES,
    }  # fmt: skip
    for shard in range(n_shards):
        cache_shard(
            model,
            chunks,
            folder / f"shard-{shard:05d}.h5",
            settings=make_settings(**(chosen | changes)),
            shard=shard,
            n_shards=n_shards,
            attributes={"model": "tiny", "revision": "step-3", "corpus": "pages"},
        )
    return folder


def tabled(folder: Path, names: list[str] = NAMES, **options: Any) -> pd.DataFrame:
    with cache.open(folder) as source:
        return dimension_table(source, names, **options)


def naive(folder: Path, names: list[str], **options: Any) -> pd.DataFrame:
    """Estimate each cloud separately."""
    rows = []
    with cache.open(folder) as source:
        for key in KEYS:
            kind, _, layer = key.partition("-l")
            for i in range(N_CONTEXTS):
                found = estimate(source.activations[key][i], names, **options)
                context = source.rows.iloc[i]
                loss, entropy = (np.float64(v[i]).mean() for v in (source.loss, source.entropy))
                rows += [
                    ["tiny", "step-3", "pages", i, context["document"], context["chunk"], kind,
                     int(layer) if layer else pd.NA, name, found[name], found.without_sinks[name],
                     found.n_eff, found.n_dup, found.n_heavy, found.heaviest, found.first_share,
                     found.flags, loss, entropy]
                    for name in names
                ]  # fmt: skip
    return pd.DataFrame(rows, columns=pd.Index(COLUMNS))


def assert_same(found: pd.DataFrame, expected: pd.DataFrame, rtol: float = 1e-6) -> None:
    """Compare two tables, whatever the order of their rows."""
    keys = ["module", "layer", "estimator", "row"]
    assert list(found.columns) == COLUMNS
    sides = [side.sort_values(keys).reset_index(drop=True) for side in (found, expected)]
    pd.testing.assert_frame_equal(
        *(side.astype({"layer": "Int64", "chunk": int}) for side in sides),
        rtol=rtol, check_dtype=False,
    )  # fmt: skip


@pytest.fixture
def folder(model: LlamaForCausalLM, chunks: Path, tmp_path: Path) -> Path:
    return cached(model, chunks, tmp_path / "cached")


def test_equals_a_naive_loop(folder: Path) -> None:
    found = tabled(folder)
    assert len(found) == N_CONTEXTS * len(KEYS) * len(NAMES)
    assert_same(found, naive(folder, NAMES))
    assert found["id"].between(0.1, 50).all()


def test_the_options_of_the_estimates_count(folder: Path) -> None:
    options = {"skip_first": 3, "theiler_window": 1, "max_norm_multiple": 1.2}
    found = tabled(folder, ["mle"], **options)
    assert_same(found, naive(folder, ["mle"], **options))
    assert found["n_eff"].max() <= 29
    for name, value in options.items():
        rest = {key: other for key, other in options.items() if key != name}
        assert not np.allclose(tabled(folder, ["mle"], **rest)["id"], found["id"]), (name, value)


@pytest.mark.slow
def test_the_time_of_slow_estimators_is_told_and_flags_stay_with_them(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        found = tabled(folder, ["mle", "KNN", "FisherS"], slow_max_points=25)
    n = N_CONTEXTS * len(KEYS)
    assert f"FisherS on {n} clouds: about " in caplog.text
    words = {name: ";".join(part["flags"]) for name, part in found.groupby("estimator")}
    assert {name for name, flags in words.items() if "subsampled" in flags} == {"FisherS"}
    assert {name for name, flags in words.items() if "unstable" in flags} == {"KNN"}


@pytest.mark.parametrize("contexts", [1, 3, 4])
def test_the_clouds_in_memory_at_once_change_nothing(
    folder: Path, contexts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = tabled(folder)
    monkeypatch.setattr(table, "_BATCH_BYTES", contexts * 4 * 32 * 24)
    found = tabled(folder)
    assert len(found) == len(expected)
    assert_same(found, expected)


def test_several_shards_equal_one(
    model: LlamaForCausalLM, chunks: Path, folder: Path, tmp_path: Path
) -> None:
    joined = tabled(cached(model, chunks, tmp_path / "joined", n_shards=4))
    assert_same(joined, tabled(folder), rtol=1e-5)


@pytest.mark.parametrize("n_shards", [1, 3])
def test_what_was_estimated_during_the_capture_gives_the_same_table(
    model: LlamaForCausalLM, chunks: Path, folder: Path, tmp_path: Path, n_shards: int
) -> None:
    changes = {"save_cache_tensors": False, "skip_first": 2}
    fused = tabled(cached(model, chunks, tmp_path / "fused", n_shards, **changes))
    assert_same(fused, tabled(folder, skip_first=2), rtol=1e-5)
    fewer = tabled(tmp_path / "fused", ["twoNN_f10"])
    assert_same(fewer, fused[fused["estimator"] == "twoNN_f10"])


def test_an_estimator_that_was_not_captured_is_named(
    model: LlamaForCausalLM, chunks: Path, tmp_path: Path
) -> None:
    fused = cached(model, chunks, tmp_path / "fused", save_cache_tensors=False)
    with pytest.raises(TerseError, match="mind_ml"):
        tabled(fused, ["mind_ml"])


def test_a_name_that_stands_for_several_gives_them_all(folder: Path) -> None:
    found = tabled(folder, ["gride"])
    assert set(found["estimator"]) == {"gride_2", "gride_4", "gride_8", "gride_16"}


def test_an_undefined_dimension_stands_there_with_its_reason(folder: Path) -> None:
    found = tabled(folder, ["mle"], skip_first=20)
    assert len(found) == N_CONTEXTS * len(KEYS)
    assert found["id"].isna().all()
    assert set(found["flags"]) == {"too_few"}
    assert set(found["n_eff"]) == {12}


def test_without_losses_their_columns_are_empty(
    model: LlamaForCausalLM, chunks: Path, tmp_path: Path
) -> None:
    changes = {"save_loss": False, "save_entropy": False}
    found = tabled(cached(model, chunks, tmp_path / "quiet", **changes), ["mle"])
    assert found[["loss_nats", "entropy_nats"]].isna().all(axis=None)
    assert found["id"].notna().all()
