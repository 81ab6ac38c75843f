"""Chunks and activations that the scripts write."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from script_chain import CONFIG, Chain, run_script
from terse.activations import cache
from terse.config import load
from terse.errors import TerseError
from terse.job import weights_of
from terse.models.loading import load_model


def test_chunk_corpus(chain: Chain) -> None:
    with (
        h5py.File(chain.folder / "cache" / "chunks" / "base.h5") as chunks,
        h5py.File(chain.inputs.tokens or "") as tokens,
    ):
        found = chunks["tokens"][:]
        documents = [name.decode() for name in chunks["rows"]["document"][:]]
        bos, all_ids = int(chunks.attrs["bos_id"]), tokens["train"]["id"][:]
        first = tokens["train"]["tokens"][: tokens["train"]["offsets"][1]]
        starts = chunks["rows"]["byte_start"][:]
    assert found.shape[1] == 48
    assert (found[:, 0] == bos).all()
    assert set(documents) <= {name.decode() for name in all_ids[:12]}
    assert max(documents.count(name) for name in documents) == 2
    if documents[0] == all_ids[0].decode():
        np.testing.assert_array_equal(found[0, 1:], first[:47])
    assert starts[0] == 0


def test_chunk_corpus_takes_every_key_of_its_block(chain: Chain) -> None:
    from terse.settings.activations import Chunking

    changes = {"documents": "validation", "shuffle": "blocks", "chunk_seed": 3, "ctx_len": 40}
    asked = load({**CONFIG, "activations": CONFIG["activations"] | changes}).measure("base")
    path = chain.folder / "other.h5"
    run_script(
        "chunk_corpus",
        chunking=asked.block(Chunking),
        tokens_path=chain.inputs.tokens,
        chunks_path=path,
    )
    with h5py.File(path) as chunks, h5py.File(chain.inputs.tokens or "") as tokens:
        ids = {name.decode() for name in tokens["validation"]["id"][:]}
        assert {name.decode() for name in chunks["rows"]["document"][:]} <= ids
        about = json.loads(chunks.attrs["settings"])
        assert chunks["tokens"].shape[1] == 40
    assert (about["shuffle"], about["seed"], about["split"]) == ("blocks", 3, "validation")


def test_cache_activations_reads_the_weights_of_the_step_that_it_is_asked_for(
    chain: Chain,
) -> None:
    folders = {"start": chain.run / "checkpoints" / "step-0", "base": chain.run / "model"}
    for name, folder in folders.items():
        model = load_model(folder)
        with cache.open(chain.folder / "cache" / "activations" / name) as found:
            tokens = torch.from_numpy(found.tokens[:].astype(np.int64))
            with torch.no_grad():
                states = model(tokens, output_hidden_states=True).hidden_states
            np.testing.assert_allclose(found.activations["block-l0"][:], states[1], atol=1e-5)
            np.testing.assert_allclose(found.activations["norm"][:], states[-1], atol=1e-5)
            about = found.attributes
        assert (about["model"], about["origin"], about["corpus"]) == (name, "base", "docs")
        assert about["revision"] == {"start": "step-0", "base": "step-6"}[name]


def test_random_weights_are_measured_and_named(chain: Chain, tmp_path: Path) -> None:
    drawn = {"run": "base", "random_weights": True, "weights_seed": 7}
    settings = load({**CONFIG, "models": CONFIG["models"] | {"drawn": drawn}})
    folder = weights_of(chain.run / "model", None)
    run_script(
        "cache_activations",
        name="drawn",
        model=settings.loading_of_model("drawn"),
        capture=settings.measure("drawn").capture(),
        model_folder=folder,
        chunks_path=chain.folder / "cache" / "chunks" / "base.h5",
        shard_path=tmp_path / "shard-00000.h5",
        shard=0,
        n_shards=1,
        state_root=tmp_path / "state",
        device="cpu",
    )
    model = load_model(folder, random_weights=7)
    with cache.open(tmp_path) as found:
        tokens = torch.from_numpy(found.tokens[:].astype(np.int64))
        with torch.no_grad():
            states = model(tokens, output_hidden_states=True).hidden_states
        np.testing.assert_allclose(found.activations["block-l0"][:], states[1], atol=1e-5)
        about = found.attributes
    assert (about["revision"], about["random_weights"]) == ("random-7", 7)
    assert about["weights"].startswith("random (seed 7), of the architecture of ")
    with cache.open(chain.folder / "cache" / "activations" / "base") as trained:
        assert about["weights"].endswith(trained.attributes["weights"])


def test_a_shard_of_a_step_that_was_not_kept_is_refused(chain: Chain, tmp_path: Path) -> None:
    asked = chain.settings.measure("start")
    with pytest.raises(TerseError, match=r"no model in .*step-5: the folder does not exist"):
        run_script(
            "cache_activations",
            name="start",
            model=chain.settings.loading_of_model("start"),
            capture=asked.capture(),
            model_folder=weights_of(chain.run / "checkpoints", 5),
            chunks_path=chain.folder / "cache" / "chunks" / "start.h5",
            shard_path=tmp_path / "shard-00000.h5",
            shard=0,
            n_shards=1,
            state_root=tmp_path / "state",
            device="cpu",
        )
