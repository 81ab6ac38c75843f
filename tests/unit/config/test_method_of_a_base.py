"""Runs that put something beside a base: what may start from them, how many processes they are."""

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
    assert workflow.selected_runs() == ["base", "compress", "forget"]


@pytest.mark.parametrize(
    ("library", "entry", "words"),
    [
        ("models", {"run": "compress"}, "models.x.run: compress of method compression is no whole"),
        (
            "runs",
            {"method": "causal-lm", "base": "compress", "corpus": "python-docs", "max_steps": 1},
            "runs.x.base: compress of method compression is no whole",
        ),
    ],
)
def test_nothing_starts_from_vectors(library: str, entry: dict[str, Any], words: str) -> None:
    raw = config()
    raw[library]["x"] = entry
    with pytest.raises(TerseError, match=words):
        load(raw)


def test_a_spread_model_is_one_process_with_all_devices() -> None:
    def processes(**settings: Any) -> tuple[int, int]:
        workflow: Workflow = load(config(gpu=2, **settings))
        return workflow.n_processes("compress"), workflow.devices_of_evaluation("compress")

    assert processes() == (2, 1)
    assert processes(model_parallel=True) == (1, 2)
    with pytest.raises(TerseError, match="leave nodes out"):
        processes(model_parallel=True, nodes=2)
