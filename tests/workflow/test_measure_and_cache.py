"""Measuring through the real workflow: clouds, kills in mid-shard, two at a time, verifying."""

import json
import os
import shutil
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch

from terse.activations import cache
from terse.activations.layout import Dataset
from terse.activations.shards import open_whole
from terse.dimension import estimate
from terse.models.loading import load_model
from tiny_workflow import TINY, Workflow, kill_all, wait_for

pytestmark = pytest.mark.slow

SHARDS, IDS = "cache/activations/base", "results/ids/base.csv"


def overlay(workflow: Workflow, content: dict) -> Workflow:
    """Return the workflow with an overlay more."""
    path = workflow.folder / f"overlay-{len(workflow.overlays)}.yaml"
    path.write_text(json.dumps(content))
    return Workflow(workflow.folder, *workflow.overlays[1:], path)


def clouds_of(tensors: bool) -> dict:
    """Two more models, the same weights, with clouds of many contexts."""
    measure = {"max_chunks_from_a_document": 5, "chunk_gap": 0, "save_cache_tensors": tensors}
    models = {
        f"by-{cloud.replace('_', '-')}": {"run": "base", "activations": {"cloud": cloud} | measure}
        for cloud in ("last_token", "means")
    }
    return {"models": models, "select": {"ids": list(models)}}


@pytest.mark.parametrize("tensors", [True, False])
def test_clouds_of_all_contexts(copied: Workflow, tensors: bool) -> None:
    """From the published weights and chunks, by transformers' own hidden states."""
    grown = overlay(copied, clouds_of(tensors))
    assert not {"train_model", "evaluate_run"} & set(grown.plan())
    grown("-c2")
    model = load_model(copied.folder / "results/runs/base/model")
    for cloud in ("last-token", "means"):
        name, figures = f"by-{cloud}", copied.folder / f"results/figures/base-{cloud}"
        drawn = {path.stem for path in figures.iterdir()}
        assert {"id-by-layer", "id-by-size"} <= drawn
        assert "id-against-loss" not in drawn
        with h5py.File(copied.folder / f"cache/chunks/{name}.h5") as file:
            tokens = torch.from_numpy(file["tokens"][:].astype(np.int64))
            documents = set(file["rows/document"][:])
        assert len(tokens) >= 22
        states = model(tokens, output_hidden_states=True).hidden_states
        curve = pd.read_csv(copied.folder / f"results/ids/scale/{name}.csv")
        table = pd.read_csv(copied.folder / f"results/ids/{name}.csv")
        assert table[["row", "document", "chunk"]].isna().all(axis=None)
        for module, layer, whole in (("block", 0, states[1]), ("norm", None, states[-1])):
            rows = table[(table["module"] == module) & (table["estimator"] == "mle_inv")]
            rows = rows[rows["layer"] == layer] if layer is not None else rows
            points = whole[:, -1].half() if cloud == "last-token" else whole.mean(1)
            if cloud == "last-token" and not tensors:
                points = whole[:, -1]
            expected = estimate(points.double(), ["mle_inv"])["mle_inv"]
            np.testing.assert_allclose(rows["id"], [expected], rtol=2e-3)
            assert rows["n_eff"].tolist() == [len(tokens)]
            whole_cloud = curve[(curve["n_points"] == len(tokens)) & (curve["module"] == module)]
            whole_cloud = whole_cloud[whole_cloud["estimator"] == "gride_4"].fillna({"layer": -1})
            found = whole_cloud.set_index("layer")["id"][-1 if layer is None else layer]
            gride = estimate(points.double(), ["gride_4"])["gride_4"]
            np.testing.assert_allclose(found, gride, rtol=2e-3)
        summary = pd.read_csv(copied.folder / f"results/ids/summary/{name}.csv")
        assert set(summary["cloud"]) == {cloud.replace("-", "_")}
        assert set(summary["n"]) == {1}
        assert set(summary["n_documents"]) == {len(documents)}
    joined = pd.read_csv(copied.folder / "results/tables/dimensions.csv")
    assert set(joined["cloud"]) == {"last_token", "means"}
    assert grown.plan() == {}


def test_a_figure_against_the_loss_needs_contexts(copied: Workflow) -> None:
    grown = overlay(copied, clouds_of(False))
    text = grown("-c2", "results/figures/base-means/id-against-loss.svg", check=False)
    assert "plot_dimensions base-means against-loss: one cloud of all contexts has no loss" in text


def joined_tensors(workflow: Workflow) -> dict[str, bytes]:
    with cache.open(workflow.folder / SHARDS) as found:
        return {name: rows[:].tobytes() for name, rows in found.activations.items()}


def shards_of(workflow: Workflow) -> dict[str, int]:
    """Return when each shard was published, by name."""
    folder = workflow.folder / SHARDS
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("shard-*.h5")}


def test_killed_in_mid_shard_only_unfinished_shards_are_made_again(
    copied: Workflow, finished: Workflow, tmp_path: Path
) -> None:
    shutil.copytree(finished.folder, tmp_path / "undisturbed", symlinks=True)
    asked = {"activations": {"n_shards": 6, "batch_size": 1}}
    undisturbed = overlay(Workflow(tmp_path / "undisturbed", TINY), asked)
    undisturbed("-c2", IDS)
    many = overlay(copied, asked)
    folder = copied.folder / SHARDS
    shutil.rmtree(folder)
    started = many.start("-c1", IDS)
    wait_for(
        lambda: (
            (len(shards_of(many)) >= 2 and list(folder.glob(".*.part")))
            or started.poll() is not None
        )
    )
    kill_all(started)
    assert list(folder.glob(".*.part")), (copied.folder / "started.log").read_text()
    done = shards_of(many)
    for name in done:
        open_whole(folder / name)[0].close()
    many("--unlock")
    many("-c2", IDS)
    again = {name for name, stamp in done.items() if shards_of(many)[name] != stamp}
    assert len(again) <= 1  # of the last one Snakemake may not have noted that it is whole
    assert not list(folder.glob(".*.part"))
    assert joined_tensors(many) == joined_tensors(undisturbed)
    assert many.tables()["base.csv"] == undisturbed.tables()["base.csv"]
    fewer = overlay(many, {"activations": {"n_shards": 1}})
    fewer("-c2", IDS)
    assert fewer.tables()["base.csv"] == undisturbed.tables()["base.csv"]


def test_two_at_once_in_one_folder_the_second_says_so(copied: Workflow) -> None:
    more = overlay(copied, {"activations": {"n_shards": 6}})
    locks = copied.folder / ".snakemake" / "locks"
    first = more.start("-c1", IDS)
    wait_for(lambda: list(locks.glob("*.lock")) or first.poll() is not None)
    second = more("-c1", IDS, check=False)
    assert "Directory cannot be locked" in second
    assert first.wait(timeout=240) == 0
    assert len(shards_of(more)) == 6
    cache.verify(copied.folder / SHARDS)


def test_two_folders_with_one_cache_the_second_says_so(copied: Workflow, tmp_path: Path) -> None:
    """Snakemake's lock holds in one working folder; the shard's own lock holds everywhere."""
    scratch = tmp_path / "scratch"
    shutil.move(copied.folder / "cache", scratch)
    moved = overlay(copied, {"roots": {"cache": str(scratch)}, "activations": {"batch_size": 1}})
    shard = scratch / "activations" / "base" / "shard-00000.h5"
    tokens = Dataset("tokens", (64,), "int32")
    with cache.write_shard(shard, [tokens], 1, attributes={}, rows={}) as other:
        text = moved("-c1", IDS, check=False)
        said = [line for line in text.splitlines() if "another process is writing" in line]
        assert len(said) == 1
        assert said[0].startswith("cache_activations base 00000: ")
        assert other.temporary.exists()
    moved("-c1", IDS)
    assert cache.verify(shard.parent) > 0


def test_the_targets_verify_and_export(copied: Workflow) -> None:
    assert "Finished jobid" in copied("-c1", "verify_activations")
    shard = copied.folder / SHARDS / "shard-00001.h5"
    content = bytearray(shard.read_bytes())
    with h5py.File(shard) as file:
        place = file["activations/attn-l1"].id.get_offset() + 2 * 64 * 32 * 2 + 5
    content[place] ^= 0x08
    stamp = shard.stat()
    shard.write_bytes(content)
    os.utime(shard, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # as a disk would, unseen
    text = copied("-c1", "verify_activations", check=False)
    said = [line for line in text.splitlines() if line.startswith("verify_activations: damaged")]
    assert len(said) == 1
    assert "shard-00001.h5: activations/attn-l1, row 2;" in said[0]

    copied("-c1", "cache/exports/base-step6")
    table = pd.read_csv(copied.folder / "results/ids/base-step6.csv")
    part = table.query("module == 'mlp' and layer == 1 and estimator == 'mle'")
    with h5py.File(copied.folder / "cache/exports/base-step6/cache_mlp-l1.h5") as file:
        np.testing.assert_array_equal(file["ID/mle"], part.sort_values("row")["id"])
        assert file["activations"].shape[0] == len(part)
