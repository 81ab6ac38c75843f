"""The ID_scaling layout, read with nothing but h5py and pandas."""

import h5py
import numpy as np
import pandas as pd
import pytest

from terse.activations import cache
from terse.activations.export import export_id_scaling
from terse.activations.shard import cache_shard
from terse.errors import TerseError
from tiny_llama import CTX_LEN, N_CONTEXTS, WIDTH, make_settings


def cached(model, chunks, folder, **changes):
    for shard in range(2):
        cache_shard(
            model, chunks, folder / f"shard-{shard:05d}.h5", settings=make_settings(**changes),
            shard=shard, n_shards=2, attributes={},
        )  # fmt: skip
    return folder


def table() -> pd.DataFrame:
    rows = list(range(N_CONTEXTS))[::-1]
    values = {"id": [float(i) for i in rows], "estimator": "mle", "row": rows}
    inner = pd.DataFrame({**values, "module": "mlp", "layer": 1})
    outer = pd.DataFrame({**values, "module": "norm", "layer": None})
    return pd.concat([outer, inner]).astype({"layer": "Int64"})


def test_tensors_means_losses_and_ids_of_a_table(model, chunks, tmp_path):
    folder = cached(model, chunks, tmp_path / "a", save_fp="bfloat16")
    export_id_scaling(folder, tmp_path / "out", ids=table())
    with cache.open(folder) as source, h5py.File(tmp_path / "out" / "cache_norm.h5") as file:
        assert file["activations"].shape == (N_CONTEXTS, CTX_LEN, WIDTH)
        np.testing.assert_array_equal(file["activations"], source.activations["norm"][:])
        np.testing.assert_array_equal(file["mean_activations"], source.means["norm"][:])
        assert file["ID/mle"][:].tolist() == [float(i) for i in range(N_CONTEXTS)]
        with h5py.File(tmp_path / "out" / "cache_mlp-l1.h5") as inner:
            assert inner["ID/mle"][:].tolist() == file["ID/mle"][:].tolist()
        with h5py.File(tmp_path / "out" / "cache_mlp-l0.h5") as inner:
            assert "ID" not in inner
        for name, rows in (("creloss", source.loss), ("entropy", source.entropy)):
            with h5py.File(tmp_path / "out" / f"{name}.h5") as losses:
                np.testing.assert_array_equal(losses[name], rows[:])
        metadata = pd.read_csv(tmp_path / "out" / "metadata.csv")
        assert metadata["id"].tolist() == source.rows["id"].tolist()
    assert len(list((tmp_path / "out").glob("cache_*.h5"))) == 10


def test_ids_of_the_cache_itself(model, chunks, tmp_path):
    folder = cached(model, chunks, tmp_path / "a", save_cache_tensors=False)
    export_id_scaling(folder, tmp_path / "out")
    with cache.open(folder) as source, h5py.File(tmp_path / "out" / "cache_mlp-l1.h5") as file:
        assert "activations" not in file
        np.testing.assert_array_equal(file["ID/mind_ml"], source.ids["mind_ml"]["mlp-l1"][:])


def test_one_cloud_of_all_contexts_has_one_dimension_and_its_points(model, chunks, tmp_path):
    folder = cached(model, chunks, tmp_path / "a", save_cache_tensors=False, cloud="last_token")
    one = pd.DataFrame({"module": ["norm"], "layer": [None], "row": [None], "estimator": ["mle"]})
    export_id_scaling(folder, tmp_path / "out", ids=one.assign(id=7.5))
    with cache.open(folder) as source, h5py.File(tmp_path / "out" / "cache_norm.h5") as file:
        assert file["ID/mle"][:].tolist() == [7.5]
        points = file["last_token_activations"][:]
        np.testing.assert_array_equal(points, source.last_tokens["norm"][:])
        assert points.shape == (N_CONTEXTS, WIDTH)


def test_a_table_of_other_contexts_is_refused_and_nothing_is_left(model, chunks, tmp_path):
    folder = cached(model, chunks, tmp_path / "a")
    with pytest.raises(TerseError, match="not have one row per context for norm, mle"):
        export_id_scaling(folder, tmp_path / "out", ids=table().iloc[1:])
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".h5"] == ["a"]
