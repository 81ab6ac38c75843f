"""`epochs` become the steps that read the training text so many times."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from terse.config.methods import method_of, methods, settings_of
from terse.corpora.token_store import TokenStore
from terse.errors import TerseError
from terse.training.method import Inputs, Method
from tiny_compression import SETTINGS as COMPRESSION
from tiny_forgetting import SETTINGS as FORGETTING
from tiny_hierarchical import LEVEL, byte_inputs
from tiny_hierarchical import SETTINGS as HIERARCHICAL
from tiny_run import train_into

CAUSAL_LM = {"method": "causal-lm", "corpus": "c", "base": "b", "ctx_len": 40}


def made(block: dict[str, Any], inputs: Inputs, **changes: Any) -> Method[Any]:
    """Return a method with epochs, in the way in which a job makes it."""
    block = {**block, "max_steps": None, "batch_size": 8, "n_grad_loops": 3, **changes}
    run: Any = settings_of(block)
    spec = methods()[run.method]
    return method_of(spec.weight_params(run) | spec.non_weight_params(run), inputs)


def n_windows(inputs: Inputs, block: int, before: int = 0) -> int:
    """Return how many windows read each document's tokens after the first `before` once."""
    sizes = [len(document) for document in documents(inputs)]
    return sum(math.ceil(max(0, size - before) / block) for size in sizes)


def documents(inputs: Inputs) -> list[Any]:
    store = TokenStore(inputs.tokens, "train")  # type: ignore[arg-type]
    return [store.document(i) for i in range(len(store))]


EXPECTED: dict[str, tuple[dict[str, Any], Callable[[Inputs], int]]] = {
    "forgetting": (FORGETTING, lambda inputs: n_windows(inputs, FORGETTING["block_len"])),
    # Windows of 8 + 6 tokens; one needs a token after its context.
    "compression": (COMPRESSION, lambda inputs: sum(
        len(range(0, len(d) - 8, 14)) for d in documents(inputs)
    )),
}  # fmt: skip


@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.parametrize("epochs", [1, 2, 0.5])
def test_steps_of_epochs(name: str, epochs: float, inputs: Inputs) -> None:
    block, rows = EXPECTED[name]
    found = made(block, inputs, epochs=epochs).settings
    assert found.n_steps == math.ceil(epochs * rows(inputs) / 24)
    assert (found.max_steps, found.epochs) == (found.n_steps, None)


def test_the_trainer_counts_the_same_epochs(inputs: Inputs, tmp_path: Path) -> None:
    method = made(CAUSAL_LM, inputs, epochs=2, batch_size=64, log_interval=1, warmup_steps=10_000,
                  checkpoint_interval=5, max_val_loops=1, eval_interval=1000)  # fmt: skip
    settings = method.settings
    assert settings.warmup_steps == settings.n_steps  # as long as the training at most
    train_into(tmp_path, method)
    last = pd.read_csv(tmp_path / "history.csv").query("split == 'train'").iloc[-1]
    assert last["step"] == settings.n_steps
    # The Trainer starts an epoch anew with its last, shorter step.
    assert last["epoch"] == pytest.approx(2, abs=0.5)
    kept = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert kept == {f"step-{i}" for i in range(0, settings.n_steps + 1, 5)}
    saved = json.loads((tmp_path / "run.json").read_text())["settings"]
    assert saved["max_steps"] == settings.n_steps


def test_bytes_and_codes_are_read_once(tmp_path: Path) -> None:
    inputs = byte_inputs(tmp_path)
    block = HIERARCHICAL | {"compressor_level_configs": [LEVEL]}
    method = made(block, inputs, epochs=1)
    n_bytes = sum(len(document) for document in documents(inputs))
    rows = method.settings.n_steps * 24
    assert n_bytes / 32 <= rows < n_bytes / 31 + len(documents(inputs)) + 24


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"max_steps": None}, "max_steps is missing: give it, or epochs"),
        ({"epochs": 2}, "max_steps 6 and epochs 2 both say how long it trains"),
        ({"n_epochs": 3}, "max_steps 6 and epochs 3 both"),
        ({"max_steps": None, "n_epochs": 3, "epochs": 2}, "n_epochs 3 and epochs 2 differ"),
        ({"max_steps": None, "epochs": 0}, "greater than 0"),
    ],
)
def test_contradictions_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        settings_of(COMPRESSION | changes)


def test_without_a_corpus_there_is_nothing_to_pass_over() -> None:
    with pytest.raises(ValueError, match="epochs are passes over a corpus"):
        settings_of({"method": "blotching", "epochs": 1})


def test_n_epochs_alone_are_epochs() -> None:
    run = settings_of(COMPRESSION | {"max_steps": None, "n_epochs": 2})
    assert (run.epochs, run.max_steps) == (2, None)


def test_kept_steps_within_the_training(inputs: Inputs) -> None:
    with pytest.raises(TerseError, match=r"checkpoint_steps: 100000 is outside 0\.\."):
        made(COMPRESSION, inputs, epochs=1, checkpoint_steps=[100_000])


def test_the_settings_of_other_runs_are_as_before() -> None:
    spec = methods()["compression"]
    assert "epochs" not in spec.result_params(settings_of(COMPRESSION))
    of_epochs = settings_of(COMPRESSION | {"max_steps": None, "epochs": 2})
    assert spec.weight_params(of_epochs)["epochs"] == 2
