"""However a step's rows are split into forward passes, the training is the same."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from terse.config.methods import OURS
from terse.methods.causal_lm.method import CausalLM
from terse.methods.hierarchical.method import Hierarchical
from terse.training.method import Inputs, Method
from tiny_blotching import blotching
from tiny_compression import compression
from tiny_forgetting import forgetting
from tiny_hierarchical import settings as hierarchical_settings
from tiny_run import train_into

STEPS = 2
ROWS = 8  # of a step


def _causal_lm(inputs: Inputs, **split: int) -> Method[Any]:
    from terse.config.methods import settings_of

    block = {"method": "causal-lm", "corpus": "c", "base": "b", "ctx_len": 24, "lr": 1e-3}
    return CausalLM(settings_of(block | split), inputs)  # type: ignore[arg-type]


def _hierarchical(inputs: Inputs, **split: int) -> Method[Any]:
    return Hierarchical(hierarchical_settings({"target_compression_ratio": 0.3}, **split), inputs)


# A small clipping limit, so that a gradient of the wrong size gives other weights.
METHODS: dict[str, Callable[..., Method[Any]]] = {
    "blotching": lambda _, **split: blotching(grad_clip=0.05, label_smoothing=0.1, **split),
    "causal-lm": _causal_lm,
    "compression": lambda inputs, **split: compression(
        inputs, rmb_task=True, kl_scale=0.5, **split
    ),
    "forgetting": lambda inputs, **split: forgetting(inputs, identity_fraction=0.5, **split),
    "hierarchical": _hierarchical,
}


def trained(
    name: str, inputs: Inputs, folder: Path, batch_size: int
) -> tuple[pd.DataFrame, dict[str, torch.Tensor]]:
    """Return the training rows of the history, and the weights."""
    method = METHODS[name](
        inputs, batch_size=batch_size, n_grad_loops=ROWS // batch_size, max_steps=STEPS,
        log_interval=1, eval_interval=STEPS, max_val_loops=1, val_batch_size=2, warmup_steps=1,
        checkpoint_steps=[],
    )  # fmt: skip
    train_into(folder, method)
    return results(folder)


def results(folder: Path) -> tuple[pd.DataFrame, dict[str, torch.Tensor]]:
    rows = pd.read_csv(folder / "history.csv").query("split == 'train'")
    files = sorted((folder / "model").glob("*.safetensors"))
    weights = {f"{f.name}/{key}": value for f in files for key, value in load_file(f).items()}
    # The inputs that a codebook saw last are those of its last pass.
    weights = {name: value for name, value in weights.items() if not name.endswith(".recent")}
    # A perplexity is of the codes of one forward pass.
    of_passes = [name for name in rows if "perplexity" in name or "spread" in name]
    rows = rows.drop(columns=["tokens_per_s", "epoch", *of_passes])
    return rows.reset_index(drop=True), weights


def assert_same(
    found: tuple[pd.DataFrame, dict[str, torch.Tensor]],
    expected: tuple[pd.DataFrame, dict[str, torch.Tensor]],
) -> None:
    pd.testing.assert_frame_equal(found[0], expected[0], rtol=2e-3, atol=1e-4, check_like=True)
    assert found[1].keys() == expected[1].keys()
    for name, value in expected[1].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-3, atol=2e-4, msg=name)


@pytest.fixture
def inputs_of(request: pytest.FixtureRequest) -> Callable[[str], Inputs]:
    """Return a function that gives the inputs of a method."""
    return lambda name: request.getfixturevalue("bytes_of" if name == "hierarchical" else "inputs")


@pytest.fixture(scope="module")
def bytes_of(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    from tiny_hierarchical import byte_inputs

    return byte_inputs(tmp_path_factory.mktemp("bytes"))


def test_every_method_is_tried() -> None:
    assert set(METHODS) == {spec.name for spec in OURS}


@pytest.mark.parametrize("name", METHODS)
def test_split_into_passes_the_training_is_the_same(
    name: str, inputs_of: Callable[[str], Inputs], tmp_path: Path
) -> None:
    inputs = inputs_of(name)
    whole = trained(name, inputs, tmp_path / "whole", ROWS)
    assert {"objective", "loss_nats", "gradient_norm"} <= set(whole[0])
    assert whole[0].notna().all(axis=None)
    assert_same(trained(name, inputs, tmp_path / "split", 1), whole)
