"""Runs whose model needs a base: what may start from them, how many processes they use."""

from pathlib import Path
from typing import Any

import pytest

from terse.config import Workflow, load, read_yaml
from terse.errors import TerseError

CONFIG = Path(__file__).parents[3] / "config" / "config.yaml"


def config(**compress: Any) -> dict[str, Any]:
    raw = read_yaml(CONFIG)
    raw["runs"]["compress"] |= compress
    return raw


def test_the_default_reads_the_tokens_of_its_base() -> None:
    workflow = load(config())
    assert workflow.tokenizer_of_run("compress") == "bpe"
    assert workflow.base_run("compress") == "base"
    assert {"base", "compress"} <= set(workflow.selected_runs())


def test_what_others_start_from_is_known() -> None:
    """So that it is trained first: see `priority` in rules/training.smk."""
    raw = config()
    models = [name for name, model in raw["models"].items() if model.get("run") == "base"]
    workflow = load(raw)
    assert workflow.n_dependents("base") == 2 + len(models)  # compress and forget
    raw["runs"]["next"] = {
        "method": "causal-lm", "base": "forget", "corpus": "python-docs", "max_steps": 1,
    }  # fmt: skip
    workflow = load(raw)
    assert workflow.n_dependents("base") == 3 + len(models)
    assert workflow.n_dependents("forget") == 1
    assert workflow.n_dependents("blotch") == 0


def test_nothing_starts_from_vectors() -> None:
    raw = config()
    raw["runs"]["x"] = {
        "method": "causal-lm", "base": "compress", "corpus": "python-docs", "max_steps": 1,
    }  # fmt: skip
    with pytest.raises(TerseError, match=r"runs\.x\.base: compress of method compression is not"):
        load(raw)


def with_model(**entry: Any) -> dict[str, Any]:
    raw = config()
    raw["models"]["x"] = {"run": "compress", **entry}
    return raw


def test_vectors_are_measured_as_points_of_contexts() -> None:
    workflow = load(with_model())
    found = workflow.measure("x")
    assert (found.cloud, found.ctx_len, found.module_outblock_keys) == ("means", 49, ["vectors"])
    assert found.save_IDs_list == workflow.measure("base").save_IDs_list
    assert (workflow.family("x"), workflow.text_of_model("x")[1]) == ("compress-means", "bpe")
    loading = workflow.loading_of_model("x")
    assert loading["run"] == workflow.result_params("compress")
    assert "run" not in workflow.loading_of_model("base")
    last = load(with_model(activations={"cloud": "last_token", "ctx_len": 30})).measure("x")
    assert (last.cloud, last.ctx_len) == ("last_token", 30)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"dtype": "float16"}, "models.x.dtype: run compress determines how it is loaded"),
        ({"activations": {"cloud": "context"}}, "allowed: last_token, means"),
        ({"activations": {"save_loss": True}}, "x.activations.save_loss: .* always False there"),
        ({"activations": {"module_outblock_keys": ["norm"]}}, "always .'vectors'. there"),
    ],
)
def test_what_does_not_hold_for_vectors_is_refused(entry: dict[str, Any], words: str) -> None:
    with pytest.raises(TerseError, match=words):
        load(with_model(**entry))


def test_a_spread_model_is_one_process_with_all_devices() -> None:
    def processes(**settings: Any) -> tuple[int, int]:
        workflow: Workflow = load(config(gpu=2, **settings))
        return workflow.n_processes("compress"), workflow.devices_of_evaluation("compress")

    assert processes() == (2, 1)
    assert processes(model_parallel=True) == (1, 2)
    with pytest.raises(TerseError, match="leave nodes out"):
        processes(model_parallel=True, nodes=2)
