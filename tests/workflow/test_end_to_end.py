"""The tiny workflow from raw text to the report, and what makes it run again."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from terse.activations import cache
from terse.dimension import estimate
from terse.models.loading import load_model
from tiny_workflow import ROOT, TINY, Workflow

pytestmark = pytest.mark.slow


def overlay(workflow: Workflow, content: dict) -> Workflow:
    """Return the workflow with an overlay more."""
    path = workflow.folder / f"overlay-{len(workflow.overlays)}.yaml"
    path.write_text(json.dumps(content))
    return Workflow(workflow.folder, *workflow.overlays[1:], path)


def test_a_second_run_does_nothing(finished: Workflow) -> None:
    assert finished.plan() == {}
    assert "Nothing to be done" in finished("-c2")


def test_evaluation_has_every_arm(finished: Workflow) -> None:
    table = pd.read_csv(finished.folder / "results/runs/base/evaluation.csv")
    bits = table[table["measure"] == "bits_per_byte"].set_index("arm")
    assert list(bits.index) == ["model", "uniform", "xz", "xz_primed"]
    assert bits.loc["uniform", "value"] == 8
    model = bits.loc["model"]
    assert 0 < model["interval_low"] < model["value"] < model["interval_high"] < 8


def test_compression_has_its_arms_figures_and_samples(finished: Workflow) -> None:
    run, study = finished.folder / "results/runs/compress", finished.folder / "results/studies"
    table = pd.read_csv(run / "evaluation.csv")
    losses = table[table["measure"] == "loss_nats"].set_index("arm")["value"]
    assert list(losses.index) == [
        "low", "high", "compressed", "static", "shuffled", "tail", "mean_pool",
    ]  # fmt: skip
    base = pd.read_csv(finished.folder / "results/runs/base/evaluation.csv")
    plain = base[(base["arm"] == "model") & (base["measure"] == "loss_nats")]["value"].iloc[0]
    assert abs(losses["high"] - plain) < 0.5
    names = {f.name for f in (study / "compression").iterdir()}
    assert {"arms.svg", "arms.pdf", "recovery.svg", "samples.html", "cost.csv"} <= names
    samples = pd.read_csv(run / "tables" / "samples.csv")
    assert len(samples) == 4
    assert {f.name for f in (run / "model").iterdir() if not f.name.startswith(".")} == {
        "compressor.json", "model.safetensors",
    }  # fmt: skip


def test_blotching_has_its_answers_figures_and_samples(finished: Workflow) -> None:
    run, study = finished.folder / "results/runs/blotch", finished.folder / "results/studies"
    table = pd.read_csv(run / "evaluation.csv")
    accuracy = table[table["measure"] == "accuracy"].set_index("arm")["value"]
    assert {"chance", "greedy p=0", "T=0.7 p=0.5", "ood greedy p=1", "vote p=1"} <= set(
        accuracy.index
    )
    names = {f.name for f in (study / "blotching").iterdir()}
    assert {"intensity.svg", "temperature.pdf", "losses.svg", "answers.html", "cost.csv"} <= names
    joined = pd.read_csv(study / "blotching" / "answers.csv")
    assert set(joined["arm"]) == {"intensity", "vanilla"}
    assert {f.name for f in (run / "model").iterdir() if not f.name.startswith(".")} >= {
        "blotching.safetensors", "config.json", "model.safetensors",
    }  # fmt: skip


def test_forgetting_has_its_arms_figures_and_passage(finished: Workflow) -> None:
    run, study = finished.folder / "results/runs/forget", finished.folder / "results/studies"
    table = pd.read_csv(run / "evaluation.csv")
    bits = table[table["measure"] == "bits_per_byte"].set_index("arm")["value"]
    arms = ("mask", "random", "recency", "sink_recency", "norm", "surprisal", "saliency")
    assert set(bits.index) == {f"{arm}-f{f}" for arm in arms for f in (0.25, 0.5)} | {
        "identity", "base",
    }  # fmt: skip
    assert abs(bits["identity"] - bits["base"]) < 0.5
    names = {f.name for f in (study / "forgetting").iterdir()}
    assert {
        "bits_per_byte.svg", "cost_by_rate.svg", "passage.svg", "tokens.csv", "cost.html",
        "continuations.html",
    } <= names  # fmt: skip
    text = "".join(map(json.loads, pd.read_csv(run / "tables" / "tokens.csv")["token"]))
    documents = pd.read_parquet(finished.folder / "cache/documents/python-docs.parquet")
    piece = text[len(text) // 2 :].replace("↵", "\n")[:30]
    assert documents["text"].str.contains(piece, regex=False).any()
    assert load_model(run / "model").config.vocab_size == 300


def test_hierarchical_runs_have_their_scores_figures_and_tables(finished: Workflow) -> None:
    run, study = finished.folder / "results/runs/codes-lm", finished.folder / "results/studies"
    table = pd.read_csv(run / "evaluation.csv")
    bits = table[table["measure"] == "bits_per_byte"].set_index("arm")["value"]
    assert set(bits.index) == {
        "two_part", "causal", "entropy_lm", "uniform", "xz", "xz_primed",
    }  # fmt: skip
    assert bits.notna().all()
    first = pd.read_csv(finished.folder / "results/runs/codes/evaluation.csv")
    flags = first[first["arm"] == "two_part"]["flag"]
    assert list(flags) == ["a first stage has no top LM"]
    names = {f.name for f in (study / "hierarchical").iterdir()}
    assert {"scores.svg", "segmentation.svg", "samples.html", "dimensions.csv"} <= names
    assert (finished.folder / "cache/codes/codes-lm.h5").is_file()
    log = (finished.folder / "logs/train_model/codes-lm.log").read_text()
    assert "step 3, continuation: " in log
    assert "step 6, round trip: " in log


def test_lm_eval_asks_a_base_and_runs_of_other_methods(copied: Workflow) -> None:
    names = ["base", "forget", "codes-lm"]
    tasks = {"tasks": ["corpus_cloze", "corpus_bytes"]}
    asked = overlay(copied, {"harness": tasks, "select": {"harness": names}})
    asked("-c2", "results/tables/harness.html")
    table = pd.read_csv(copied.folder / "results/tables/harness.csv")
    assert set(table["model"]) == set(names)
    accuracy = table[table["metric"] == "acc"]
    assert accuracy["value"].between(0, 1).all()
    bits = table[table["metric"] == "bits_per_byte"]["value"]
    assert len(bits) == 3
    assert ((bits > 0) & (bits < 12)).all()


def test_a_frontier_of_ways_and_runs(copied: Workflow) -> None:
    names = ("frontier.svg", "frontier.html")
    copied("-c2", *(f"results/frontier/small/{name}" for name in names))
    table = pd.read_csv(copied.folder / "results/frontier/small/scores.csv")
    bits = table[table["measure"] == "bits_per_byte"].groupby("way")["value"].count()
    rates = {"full": 1, "none": 1, "recency": 2, "evict.knorm": 2, "compress": 1, "forget": 2}
    assert bits.to_dict() == rates
    assert "failed" not in set(table["measure"])
    assert (copied.folder / "results/frontier/small/frontier.svg").stat().st_size > 1000


def test_a_methods_own_setting_retrains_its_run_only(
    copied: Workflow,
) -> None:
    plan = overlay(copied, {"runs": {"compress": {"n_cmps": 3}}}).plan()
    assert plan["train_model"] == plan["evaluate_run"] == plan["plot_study"] == 1
    assert not {"collect_corpus", "cache_activations", "estimate_dimensions"} & set(plan)
    scored = overlay(copied, {"runs": {"compress": {"eval_windows": 30}}}).plan()
    assert scored["evaluate_run"] == scored["plot_study"] == 1
    assert "train_model" not in scored


def test_ids_are_those_of_the_models_hidden_states(finished: Workflow) -> None:
    """From the published weights and chunks, by transformers' own hidden states."""
    import h5py

    table = pd.read_csv(finished.folder / "results/ids/base-step6.csv")
    with h5py.File(finished.folder / "cache/chunks/base-step6.h5") as file:
        tokens = torch.from_numpy(file["tokens"][:].astype(np.int64))
    model = load_model(finished.folder / "results/runs/base/checkpoints/step-6")
    states = model(tokens, output_hidden_states=True).hidden_states
    for module, layer, cloud in (("block", 0, states[1]), ("norm", None, states[-1])):
        rows = table[(table["module"] == module) & (table["estimator"] == "mle_inv")]
        rows = rows[rows["layer"] == layer] if layer is not None else rows
        expected = estimate(cloud.to(torch.float16), ["mle_inv"])["mle_inv"]
        np.testing.assert_allclose(rows.sort_values("row")["id"], expected, rtol=1e-3)


def test_losses_are_the_models(finished: Workflow) -> None:
    with cache.open(finished.folder / "cache/activations/base") as activations:
        tokens = torch.from_numpy(activations.tokens[:].astype(np.int64))
        found = activations.loss[:]
    model = load_model(finished.folder / "results/runs/base/model")
    logits = model(tokens).logits[:, :-1]
    expected = torch.nn.functional.cross_entropy(
        logits.transpose(1, 2), tokens[:, 1:], reduction="none"
    )
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_every_result_says_where_it_comes_from(finished: Workflow) -> None:
    records = [
        *finished.folder.glob("results/runs/*/*run.json"),
        *finished.folder.glob("results/ids/*.run.json"),
        *finished.folder.glob("cache/documents/*.run.json"),
    ]
    assert len(records) == 20
    head = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    commit = subprocess.run(head, capture_output=True, text=True, check=True).stdout.strip()
    for path in records:
        record = json.loads(path.read_text())
        assert {"settings", "seed", "git", "versions", "device", "inputs"} <= set(record)
        assert "torch" in record["versions"]
        assert record["git"]["commit"] == commit


def test_touched_files_and_edited_comments_rerun_nothing(copied: Workflow) -> None:
    for name in (
        "cache/documents/python-docs.parquet",
        "cache/tokenizers/bpe/tokenizer.json",
        "cache/tokens/python-docs/bpe.h5",
        "results/ids/base.csv",
    ):
        os.utime(copied.folder / name)
    commented = copied.folder / "commented.yaml"
    commented.write_text("# a comment\n" + TINY.read_text())
    assert Workflow(copied.folder, commented).plan() == {}


@pytest.mark.parametrize("root", ["cache", "results", "state"])
def test_moved_root_reruns_nothing(root: str, copied: Workflow, tmp_path: Path) -> None:
    elsewhere = tmp_path / "scratch" / root
    elsewhere.parent.mkdir()
    if (copied.folder / root).exists():
        shutil.move(copied.folder / root, elsewhere)
    moved = overlay(copied, {"roots": {root: str(elsewhere)}})
    assert moved.plan() == {}
    assert (copied.folder / root).is_symlink()
    assert copied.plan() == {}  # the link stays where the key is left out


def test_new_estimator_recomputes_dimensions_only(copied: Workflow) -> None:
    more = {"activations": {"save_IDs_list": ["mle", "mle_inv", "twoNN_f20"]}}
    plan = overlay(copied, more).plan()
    assert plan["estimate_dimensions"] == 3
    assert not {"train_model", "cache_activations", "evaluate_run"} & set(plan)


def test_changed_settings_replan_what_depends_on_them(copied: Workflow) -> None:
    plan = overlay(copied, {"runs": {"base": {"lr": 0.002}}}).plan()
    assert plan["train_model"] == 3  # base, and the two that start from it
    assert plan["cache_activations"] == 6
    assert not {"collect_corpus", "tokenize_corpus", "chunk_corpus"} & set(plan)
    plan = overlay(copied, {"activations": {"chunk_gap": 7}}).plan()
    assert plan["chunk_corpus"] == 3
    assert "train_model" not in plan


def test_conduct_and_unrelated_settings_replan_nothing(copied: Workflow) -> None:
    changes = {
        "tracking": "mlflow",
        "gpu": 1,
        "n_data_procs": 2,
        "runs": {"base": {"save_interval": 3}, "other": {"method": "causal-lm", "base": "base",
                 "corpus": "python-docs", "ctx_len": 64, "max_steps": 1}},
        "models": {"other": {"run": "other"}},
    }  # fmt: skip
    assert overlay(copied, changes).plan() == {}


def test_forcerun_trains_again_to_the_same_weights(copied: Workflow) -> None:
    before = copied.weights()
    stamp = (copied.folder / "results/runs/base/model/model.safetensors").stat().st_mtime_ns
    copied("-c2", "--forcerun", "train_model", "--", "results/runs/base/history.csv")
    after = (copied.folder / "results/runs/base/model/model.safetensors").stat().st_mtime_ns
    assert after > stamp
    assert copied.weights() == before


def test_run_from_a_base_starts_at_its_weights(copied: Workflow) -> None:
    more = {
        "runs": {"more": {"method": "causal-lm", "base": "base-step6", "corpus": "python-docs",
                          "ctx_len": 64, "max_steps": 2, "checkpoint_steps": [0]}},
    }  # fmt: skip
    target = "results/runs/more/evaluation.csv"
    grown = overlay(copied, more)
    assert grown.plan(target) == {"train_model": 1, "evaluate_run": 1}
    grown("-c2", target)
    weights = grown.weights()
    assert (
        weights["more/checkpoints/step-0/model.safetensors"]
        == (weights["base/checkpoints/step-6/model.safetensors"])
    )
    assert weights["more/model/model.safetensors"] != weights["base/model/model.safetensors"]


def test_a_compressor_is_a_model_that_is_measured(copied: Workflow) -> None:
    measured = {"run": "compress", "activations": {"cloud": "last_token"}}
    more = {"models": {"vectors": measured}, "select": {"ids": ["vectors"]}}
    grown = overlay(copied, more)
    targets = ["results/ids/vectors.csv", "results/tables/dimensions.csv"]
    figures = "results/figures/compress-last-token"
    grown("-c2", "--", *targets, f"{figures}/id-by-layer.svg", f"{figures}/id-by-size.svg")
    table = pd.read_csv(copied.folder / targets[0])
    assert set(table["module"]) == {"vectors"}
    assert table["row"].isna().all()
    with cache.open(copied.folder / "cache/activations/vectors") as activations:
        assert (table["n_eff"] == activations.n_rows).all()
        points = activations.last_tokens["vectors"][:]
    expected = estimate(points, ["mle_inv"])["mle_inv"]
    found = table[table["estimator"] == "mle_inv"]["id"].item()
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    plan = overlay(copied, more | {"runs": {"base": {"lr": 0.002}}}).plan(targets[0])
    assert plan["cache_activations"] == 2  # shards: the base is an input


def test_fused_and_cached_dimensions_agree(copied: Workflow) -> None:
    """Without stored tensors the dimensions come from the pass itself."""
    cached = pd.read_csv(copied.folder / "results/ids/base.csv")
    fused = overlay(copied, {"activations": {"save_cache_tensors": False, "id_input": "float16"}})
    fused("-c2", "results/ids/base.csv")
    table = pd.read_csv(copied.folder / "results/ids/base.csv")
    keys = ["row", "module", "layer", "estimator"]
    both = cached.merge(table, on=keys, suffixes=("_cached", "_fused"))
    assert len(both) == len(cached) == len(table)
    np.testing.assert_allclose(both["id_fused"], both["id_cached"], rtol=1e-6)
    with cache.open(copied.folder / "cache/activations/base") as activations:
        assert not activations.activations
