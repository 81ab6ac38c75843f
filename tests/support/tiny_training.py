"""A tiny method on random tokens: everything of a training but the text."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, TrainerCallback

from terse.evaluation.measures import Measure
from terse.machine.signals import StopSignal
from terse.methods.causal_lm.settings import CausalLMSettings
from terse.methods.causal_lm.spec import CAUSAL_LM
from terse.training.method import Inputs, Method
from terse.training.train import Conduct, Outputs, train


class RandomRows(Dataset[Any]):
    """Rows of random tokens that are the same each time."""

    def __init__(self, n: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.tokens = torch.randint(0, 50, (n, 16), generator=generator)

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.tokens[index], "labels": self.tokens[index]}


class TinyMethod(Method[CausalLMSettings]):
    """A model with dropout, so that a resume has to restore the generators too."""

    spec = CAUSAL_LM

    def build(self) -> PreTrainedModel:
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=50,
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=1,
                num_attention_heads=2,
                attention_dropout=0.2,
            )
        )

    def training_rows(self) -> Dataset[Any]:
        return RandomRows(37, seed=1)

    def validation_rows(self) -> Dataset[Any]:
        return RandomRows(7, seed=2)

    def evaluate(self, model: PreTrainedModel, device: str) -> list[Measure]:
        return []


SETTINGS = {
    "method": "causal-lm",
    "corpus": "c",
    "tokenizer": "t",
    "max_steps": 12,
    "batch_size": 3,
    "n_grad_loops": 2,
    "warmup_steps": 2,
    "log_interval": 2,
    "eval_interval": 5,
    "checkpoint_steps": [0, 7],
}


def tiny_method(**changes: Any) -> TinyMethod:
    """Return the method with some settings changed. 37 rows make 7 steps an epoch."""
    return TinyMethod(CausalLMSettings.model_validate(SETTINGS | changes), Inputs())


def train_tiny(
    folder: Path,
    *,
    method: Method[Any] | None = None,
    signal: StopSignal | None = None,
    **conduct: Any,
) -> Path:
    """Train into `folder`, its state in `folder/state`; return the folder."""
    train(
        method or tiny_method(),
        state_folder=folder / "state" / "tiny" / "digest",
        outputs=Outputs(
            folder / "model", folder / "checkpoints", folder / "history.csv", folder / "run.json"
        ),
        record={"seed": 0},
        conduct=Conduct(name="tiny", results=folder, save_interval=4, **conduct),
        signal=signal or StopSignal(),
    )
    return folder


class AtStep(TrainerCallback):
    """Does something at the end of a step, before anything is saved there."""

    def __init__(self, step: int, act: Callable[[], None]) -> None:
        self.step, self.act = step, act

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            self.act()


def with_callback(callback: TrainerCallback) -> TinyMethod:
    method = tiny_method()
    method.callbacks = lambda: [callback]  # type: ignore[method-assign]
    return method
