"""The tiny workflow on the cluster is the local one, bit for bit."""

import pandas as pd
import pytest

import cluster
from slurm_workflow import SlurmWorkflow
from test_training_faults import runs
from tiny_workflow import Workflow

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

RUNS = {"base", "codes", "codes-lm", "byte-lm"}
GPU_RULES = {"train_model", "cache_activations", "evaluate_run", "encode_corpus", "run_lm_eval"}


def test_same_tables_and_weights_as_a_local_run(
    on_cluster: SlurmWorkflow, finished: Workflow
) -> None:
    weights, tables = on_cluster.weights(), on_cluster.tables()
    assert {name.split("/")[0] for name in weights} == RUNS
    assert weights == {name: finished.weights()[name] for name in weights}
    assert set(tables) == {"base-step6.csv"}
    assert tables["base-step6.csv"] == finished.tables()["base-step6.csv"]
    for name, key, chosen in (("runs", "run", RUNS), ("dimensions", "model", {"base-step6"})):
        made, local = (
            pd.read_csv(workflow.folder / f"results/tables/{name}.csv")
            for workflow in (on_cluster, finished)
        )
        assert set(made[key]) == chosen
        expected = local[local[key].isin(chosen)].reset_index(drop=True)
        pd.testing.assert_frame_equal(made, expected, check_exact=True)
    assert on_cluster.plan() == {}


def test_a_job_that_asks_gets_one_gpu_of_its_own(on_cluster: SlurmWorkflow) -> None:
    seen = set().union(*on_cluster.sights)
    assert {one.script for one in seen} >= {*GPU_RULES, "tokenize_corpus", "estimate_dimensions"}
    for one in seen:
        assert (one.devices in {"0", "1", "2"}) == (one.script in GPU_RULES), one
    together = [{one for one in sight if one.devices is not None} for sight in on_cluster.sights]
    assert max(map(len, together)) >= 3  # of the cluster's six, at once
    for sight in together:
        assert len({(one.node, one.devices) for one in sight}) == len({one.job for one in sight})


def test_tables_figures_and_downloads_stay_on_the_login_node(on_cluster: SlurmWorkflow) -> None:
    seen = {one.script for sight in on_cluster.sights for one in sight}
    local = {"collect_corpus", "compare_dimensions", "tabulate_results"}
    assert not {one for one in seen if one in local or one.startswith("plot_")}


def test_a_site_spells_its_gpus(workflow: SlurmWorkflow) -> None:
    """By kind (`gpu_model`), or as sites do that only know `gres`."""
    asked = workflow.changed(
        runs("one") | {"models": {"one": {"run": "one"}}},
        resources={
            "train_model": {"gpu": 0, "gres": "'gpu:fake:1'"},
            "cache_activations": {"gpu_model": "fake"},
        },
    )
    with asked.watched():
        asked("cache/activations/one/shard-00000.h5")
    seen = {one.script: one for sight in asked.sights for one in sight}
    spelling = {"train_model": "TresPerNode=gres:gpu:fake:1",
                "cache_activations": "TresPerJob=gres:gpu:fake:1"}  # fmt: skip
    for script, told in spelling.items():
        assert told in cluster.output("scontrol", "show", "job", seen[script].job)
        assert seen[script].devices in {"0", "1", "2"}
