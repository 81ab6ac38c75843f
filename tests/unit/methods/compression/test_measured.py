"""The vectors are captured as the states of other models are."""

from pathlib import Path

import numpy as np
import pytest
import torch

from terse.training.method import Inputs
from tiny_compression import compression


@pytest.mark.parametrize(("cloud", "n_spans"), [("last_token", 1), ("means", 1), ("means", 2)])
def test_vectors_are_captured_as_other_models_states(
    cloud: str, n_spans: int, trained: Path, inputs: Inputs, tmp_path: Path
) -> None:
    """Cut from the corpus, cached in shards, tabled: the whole way of any other model."""
    from terse.activations import cache
    from terse.activations.shard import cache_shard
    from terse.activations.table import dimension_table
    from terse.corpora.chunks import chunk_documents
    from terse.dimension import estimate
    from terse.settings.activations import Activations

    folder = trained / "model"
    method = compression(inputs, n_spans=n_spans, seq_len=6 + 8 * n_spans)
    if n_spans > 1:
        folder = tmp_path / "spans"
        folder.mkdir()
        method.save(method.build(), folder)
    decided = method.spec.measurement(method.settings)
    asked = {"corpus": "c", "batch_size": 7, **decided, "cloud": cloud}
    asked["save_IDs_list"] = ["mle_inv", "twoNN_f10"]
    settings = Activations.model_validate(asked)
    assert inputs.tokens is not None
    chunk_documents(
        inputs.tokens, tmp_path / "chunks.h5", ctx_len=settings.ctx_len,
        min_chunks_from_a_document=1, max_chunks_from_a_document=2, split="validation",
    )  # fmt: skip
    for shard in (0, 1):
        cache_shard(
            method.measured(folder, "cpu"), tmp_path / "chunks.h5",
            tmp_path / "shards" / f"shard-{shard:05d}.h5", settings=settings, shard=shard,
            n_shards=2, attributes={"model": "z", "revision": "main", "corpus": "c"},
        )  # fmt: skip
    model = method.load(folder)
    with cache.open(tmp_path / "shards") as found:
        contexts = torch.from_numpy(found.tokens[:]).long()[:, 1:]  # BOS in front
        with torch.no_grad():
            Z = model.compress(contexts, torch.ones_like(contexts))
        expected = Z[:, -1] if cloud == "last_token" else Z.mean(1)
        kept = found.last_tokens if cloud == "last_token" else found.means
        np.testing.assert_allclose(kept["vectors"][:], expected, rtol=1e-4, atol=1e-5)
        table = dimension_table(found, settings.save_IDs_list, cloud=cloud)
    ids = estimate(expected, settings.save_IDs_list)
    assert table["module"].tolist() == ["vectors"] * 2
    assert (table["n_eff"] == len(contexts)).all()
    np.testing.assert_allclose(table["id"], [ids["mle_inv"], ids["twoNN_f10"]], rtol=1e-3)
