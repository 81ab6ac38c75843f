"""Whom lm-eval asks, and through what: models, and runs with what their methods read them by."""

import importlib
from pathlib import Path
from typing import Any

import pytest

from terse.config import load, read_yaml
from terse.config.adapters import LANGUAGE_MODEL
from terse.errors import TerseError

CONFIG = Path(__file__).parents[3] / "config" / "config.yaml"
FORGETFUL = "terse.methods.forgetting.lm_eval:ForgetfulLM"
TASK = {"method": "forgetting", "task": "filler", "max_steps": 8}


def config(asked: list[str] | None = None, **forget: Any) -> dict[str, Any]:
    """Return the default with a model and a task more, and whom lm-eval asks."""
    raw = read_yaml(CONFIG)
    raw["runs"] = {**raw["runs"], "forget": raw["runs"]["forget"] | forget, "task": TASK}
    raw["models"] |= {"tuned": {"run": "forget"}, "made-up": {"run": "task"}}
    raw["models"]["vectors"] = {"run": "compress"}
    raw["select"]["harness"] = asked or []
    raw["frontier"], raw["select"]["frontier"] = {}, []
    return raw


@pytest.mark.parametrize(
    ("name", "adapter"),
    [
        ("base", LANGUAGE_MODEL),
        ("byte-lm", LANGUAGE_MODEL),
        ("llama-7b", LANGUAGE_MODEL),
        ("forget", FORGETFUL),
        ("tuned", LANGUAGE_MODEL),  # the run's language model by itself
        ("compress", "terse.methods.compression.lm_eval:CompressedLM"),
        ("vectors", "terse.methods.compression.lm_eval:CompressedLM"),
        ("codes-lm", "terse.methods.hierarchical.lm_eval:HierarchicalAELM"),
    ],
)
def test_a_run_is_asked_through_its_own_adapter(name: str, adapter: str) -> None:
    assert load(config([name])).harness_adapter(name) == adapter
    module, _, member = adapter.partition(":")
    assert callable(getattr(importlib.import_module(module), member))


@pytest.mark.parametrize(
    ("name", "forget", "words"),
    [
        ("codes", {}, "codes of method hierarchical has no likelihood"),
        ("task", {}, "task reads no text"),
        ("made-up", {}, "made-up reads no text"),
        ("forget", {"decide": "sample"}, "forget: mask rnn with decide sample draws different"),
    ],
)
def test_what_has_no_likelihood_is_refused_before_any_job(
    name: str, forget: dict[str, Any], words: str
) -> None:
    with pytest.raises(TerseError, match=f"select.harness: {words}"):
        load(config([name], **forget))


def test_the_language_model_of_a_run_that_draws_can_be_asked() -> None:
    assert load(config(["tuned"], decide="sample")).harness_adapter("tuned") == LANGUAGE_MODEL
