"""Dimensions without neighbours in time: of the tokens' manifold, or of the path of a text."""

from pathlib import Path

import numpy as np
import pytest
from transformers import LlamaForCausalLM

from terse.activations import cache, windows
from terse.activations.shard import cache_shard
from terse.activations.windows import window_table
from terse.dimension import estimate
from tiny_llama import N_CONTEXTS, make_settings

WINDOWS = (0, 2, 4)  # contexts of 32 tokens leave room for no more


def cached(
    model: LlamaForCausalLM, chunks: Path, folder: Path, n_shards: int = 1, **changes: object
) -> Path:
    chosen = {"layer_idx_list": [2], "module_inblock_keys": ["block"]}
    for shard in range(n_shards):
        cache_shard(
            model, chunks, folder / f"shard-{shard:05d}.h5", shard=shard, n_shards=n_shards,
            settings=make_settings(**(chosen | changes)),
            attributes={"model": "tiny", "revision": "main", "corpus": "pages"},
        )  # fmt: skip
    return folder


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "WINDOWS", WINDOWS)


def test_each_window_equals_a_naive_loop(
    model: LlamaForCausalLM, chunks: Path, tmp_path: Path
) -> None:
    folder = cached(model, chunks, tmp_path / "a", n_shards=2)
    with cache.open(folder) as found:
        table = window_table(found, ["mle_inv", "participation_ratio"])
        clouds = found.activations["block-l2"][:]
    part = table.query("module == 'block' and layer == 2")
    assert set(part["estimator"]) == {"mle_inv", "gride_2", "gride_4", "gride_8", "gride_16"}
    for window in WINDOWS:
        for name in ("mle_inv", "gride_4"):
            expected = [estimate(c, [name], theiler_window=window)[name] for c in clouds]
            row = part.query("theiler_window == @window and estimator == @name").iloc[0]
            assert row["mean"] == pytest.approx(np.mean(expected), rel=1e-6)
            assert row["n"] == N_CONTEXTS
            assert row["n_eff"] == 32
            assert row["n_documents"] == len({*range(0, N_CONTEXTS, 2)})


def test_a_path_through_space_has_one_dimension_until_its_neighbours_are_left_out(
    model: LlamaForCausalLM, chunks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = cached(model, chunks, tmp_path / "a")
    with cache.open(folder) as found:
        speeds = np.random.default_rng(0).uniform(0.02, 0.05, (N_CONTEXTS, 1, 6))
        path = np.sin(speeds * np.arange(1000)[:, None])  # (n, 1000, 6), winds around a torus
        monkeypatch.setitem(found.activations, "block-l2", path.astype(np.float32))
        monkeypatch.setattr(windows, "WINDOWS", (0, 32))
        table = window_table(found, ["mle_inv"])
    part = table.query("module == 'block' and layer == 2 and estimator == 'mle_inv'")
    near, far = part.set_index("theiler_window")["mean"].loc[[0, 32]]
    assert near < 1.5
    assert far > 2


def test_few_contexts_are_chosen_evenly(
    model: LlamaForCausalLM, chunks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(windows, "N_CONTEXTS", 3)
    folder = cached(model, chunks, tmp_path / "a")
    with cache.open(folder) as found:
        table = window_table(found, ["mle_inv"])
        clouds = [found.activations["norm"][row] for row in (0, 5, 10)]
    row = table.query("module == 'norm' and estimator == 'mle_inv' and theiler_window == 2").iloc[0]
    expected = [estimate(c, ["mle_inv"], theiler_window=2)["mle_inv"] for c in clouds]
    assert row["mean"] == pytest.approx(np.mean(expected), rel=1e-6)


def test_too_short_contexts_are_undefined(
    model: LlamaForCausalLM, chunks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(windows, "WINDOWS", (0, 8))
    with cache.open(cached(model, chunks, tmp_path / "a")) as found:
        table = window_table(found, ["mle_inv"])
    undefined = table.query("theiler_window == 8")
    assert undefined["mean"].isna().all()
    assert (undefined["n_undefined"] == N_CONTEXTS).all()


def test_without_hidden_states_the_table_is_empty(
    model: LlamaForCausalLM, chunks: Path, tmp_path: Path
) -> None:
    with cache.open(cached(model, chunks, tmp_path / "a", save_cache_tensors=False)) as found:
        assert len(window_table(found, ["mle_inv"])) == 0
