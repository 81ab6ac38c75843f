"""One cloud of all contexts, their last tokens or means, against the model's hidden states."""

from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from transformers import LlamaForCausalLM

from terse.activations import cache
from terse.activations.shard import cache_shard
from terse.activations.table import COLUMNS, dimension_table
from terse.dimension import estimate
from terse.dimension.statistics import summarise
from terse.errors import TerseError
from tiny_llama import N_LAYERS, WIDTH, make_model, make_settings, write_chunks

N = 60
NAMES = ["mle", "mle_inv", "twoNN_f10"]


@pytest.fixture(scope="module")
def chunks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chunks(tmp_path_factory.mktemp("chunks") / "chunks.h5", n=N)


@pytest.fixture(scope="module")
def states(model: LlamaForCausalLM, chunks: Path) -> dict[tuple[str, int | None], torch.Tensor]:
    """(module, layer) -> (N, T, D), one pass over one context at a time."""
    with h5py.File(chunks) as file:
        tokens = torch.from_numpy(file["tokens"][:].astype(np.int64))
    with torch.no_grad():
        passes = [model(row[None], output_hidden_states=True).hidden_states for row in tokens]
    layers = [torch.cat([one[i] for one in passes]) for i in range(N_LAYERS + 1)]
    return {("block", 0): layers[1], ("block", 1): layers[2], ("norm", None): layers[-1]}


def cached(
    model: LlamaForCausalLM, chunks: Path, folder: Path, n_shards: int = 3, **changes
) -> Path:
    chosen = {"layer_idx_list": [0, 1], "module_inblock_keys": ["block"], "save_IDs_list": NAMES}
    for shard in range(n_shards):
        cache_shard(
            model, chunks, folder / f"shard-{shard:05d}.h5", shard=shard, n_shards=n_shards,
            settings=make_settings(**(chosen | changes)),
            attributes={"model": "tiny", "revision": "main", "corpus": "pages"},
        )  # fmt: skip
    return folder


def tabled(folder: Path, cloud: str, **options) -> pd.DataFrame:
    with cache.open(folder) as source:
        return dimension_table(source, NAMES, cloud=cloud, **options)


def light(points: np.ndarray) -> np.ndarray:
    """Return the points (n, D) of a context whose norm about the others' mean is no exception."""
    kept = np.ones(len(points), bool)
    for _ in range(4):
        norms = np.linalg.norm(points - points[kept].mean(0), axis=1)
        kept = norms <= 8 * np.median(norms)
    return points[kept]


def expected_points(states, module: str, layer: int | None, cloud: str) -> np.ndarray:
    whole = states[(module, layer)].double()
    if cloud == "means_without_sinks":
        return np.stack([light(points).mean(0) for points in whole.numpy()])
    return (whole[:, -1] if cloud == "last_token" else whole.mean(1)).numpy()  # (N, D)


@pytest.mark.parametrize("cloud", ["last_token", "means", "means_without_sinks"])
@pytest.mark.parametrize("tensors", [True, False])
def test_equals_the_models_own_hidden_states(model, chunks, states, tmp_path, cloud, tensors):
    asked = {"save_cache_tensors": tensors, "cloud": cloud}
    found = tabled(cached(model, chunks, tmp_path / "a", **asked), cloud)
    assert list(found.columns) == COLUMNS
    assert len(found) == 3 * len(NAMES)  # one row per module and estimator
    assert found[["row", "document", "chunk"]].isna().all(axis=None)
    assert set(found["n_eff"]) == {N}
    for (module, layer), part in found.groupby(["module", "layer"], dropna=False):
        points = expected_points(states, module, None if pd.isna(layer) else layer, cloud)
        expected = estimate(points, NAMES)
        assert part["estimator"].tolist() == NAMES
        np.testing.assert_allclose(part["id"], [expected[n] for n in NAMES], rtol=2e-4)
    with cache.open(tmp_path / "a") as source:
        assert bool(source.activations) == tensors
        assert bool(source.last_tokens) == (cloud == "last_token" and not tensors)
        assert not source.ids
        assert found["loss_nats"].tolist() == pytest.approx([source.loss[:].mean()] * len(found))
    cache.verify(tmp_path / "a")


def test_what_is_kept_without_tensors_is_small_and_in_the_dtype_that_is_measured(
    model, chunks, tmp_path
):
    shape = {"save_cache_tensors": False, "cloud": "last_token"}
    exact = cached(model, chunks, tmp_path / "a", **shape)
    rounded = cached(model, chunks, tmp_path / "b", id_input="float16", **shape)
    half = make_model().bfloat16()
    cached(half, chunks, tmp_path / "c", **shape)
    with cache.open(exact) as a, cache.open(rounded) as b, cache.open(tmp_path / "c") as c:
        points = a.last_tokens["norm"][:]
        assert points.shape == (N, WIDTH)
        np.testing.assert_array_equal(b.last_tokens["norm"][:], points.astype(np.float16))
        assert b.last_tokens["norm"].dtype == np.float16
        found = c.last_tokens["norm"][:]
        assert found.dtype == np.float32
        np.testing.assert_array_equal(torch.from_numpy(found).bfloat16().float(), found)
        np.testing.assert_allclose(found, points, atol=0.1)


def test_tensors_serve_every_cloud(model, chunks, tmp_path):
    folder = cached(model, chunks, tmp_path / "a", compression="gzip", save_fp="bfloat16")
    with cache.open(folder) as source:
        np.testing.assert_array_equal(
            source.activations["block-l1"].tokens(-1), source.activations["block-l1"][:][:, -1]
        )
    assert len(tabled(folder, "context")) == N * 3 * len(NAMES)
    for cloud in ("last_token", "means", "means_without_sinks"):
        assert tabled(folder, cloud)["id"].between(0.5, 60).all()


def test_a_heavy_token_moves_the_means_and_not_those_without_it(chunks, states, tmp_path):
    model = make_model()

    def heavy(_, inputs, out):
        return out + 1000.0 * (torch.arange(out.shape[1]) == 4)[:, None]

    model.model.norm.register_forward_hook(heavy)
    with cache.open(cached(model, chunks, tmp_path / "a")) as found:
        means, without = found.means["norm"][:], found.means_without_sinks["norm"][:]
        norms = found.norms["norm"][:]
        tokens = found.activations["norm"][:]
        untouched = found.means_without_sinks["block-l1"][:]
    others = np.delete(states[("norm", None)].numpy(), 4, 1).astype(np.float64)
    np.testing.assert_allclose(without, others.mean(1), rtol=1e-5, atol=1e-6)
    assert (np.abs(means - without) > 20).all()
    assert (norms.argmax(1) == 4).all()
    apart = np.linalg.norm(tokens - without[:, None].astype(np.float64), axis=2)
    np.testing.assert_allclose(norms, apart / np.median(apart, axis=1)[:, None], rtol=1e-5)
    np.testing.assert_allclose(untouched, states[("block", 1)].mean(1), rtol=1e-4, atol=1e-5)


def test_options_count_contexts(model, chunks, states, tmp_path):
    folder = cached(model, chunks, tmp_path / "a")
    plain = tabled(folder, "last_token")
    assert not np.allclose(tabled(folder, "last_token", theiler_window=2)["id"], plain["id"])
    few = tabled(folder, "last_token", max_norm_multiple=1.05)
    for (module, layer), part in few.groupby(["module", "layer"], dropna=False):
        points = expected_points(states, module, None if pd.isna(layer) else layer, "last_token")
        norms = np.linalg.norm(points - points.mean(0), axis=1)
        assert set(part["n_eff"]) == {(norms <= 1.05 * np.median(norms)).sum()}
        assert set(part["n_eff"]) < {*range(N)}


def test_summary_of_one_cloud(model, chunks, tmp_path):
    found = tabled(cached(model, chunks, tmp_path / "a"), "means")
    summary = summarise(found)
    assert summary["mean"].tolist() == found["id"].tolist()
    assert summary["n"].tolist() == [1] * len(summary)
    assert summary["standard_error"].isna().all()


def test_too_few_contexts_have_no_dimension(model, tmp_path):
    few = write_chunks(tmp_path / "few.h5", n=11)
    found = tabled(cached(model, few, tmp_path / "a", n_shards=1), "last_token")
    assert found["id"].isna().all()
    assert set(found["flags"]) == {"too_few"}


def test_one_context_that_is_not_finite_refuses_the_cloud(model, chunks, tmp_path):
    broken = make_model()
    third = torch.tensor(3)
    broken.model.norm.register_forward_hook(lambda m, i, out: out.index_fill(2, third, torch.nan))
    found = tabled(cached(broken, chunks, tmp_path / "a"), "last_token").set_index("module")
    assert found.loc["norm", "id"].isna().all()
    assert set(found.loc["norm", "flags"]) == {"nonfinite"}
    assert found.loc["block", "id"].notna().all()


def test_a_cache_made_for_other_clouds_says_so(model, chunks, tmp_path):
    folder = cached(
        model, chunks, tmp_path / "a", save_cache_tensors=False, save_mean_tensors=False
    )
    for cloud in ("last_token", "means", "means_without_sinks"):
        with pytest.raises(TerseError, match=f"has no {cloud} of block-l0"):
            tabled(folder, cloud)
    with pytest.raises(TerseError, match="did you mean 'last_token'"):
        tabled(folder, "last_tokens")
