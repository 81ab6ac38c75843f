"""A `causal-lm` training step on our path against a bare PyTorch loop, and a checkpoint's cost.

Same model, batch, optimiser and rows on both sides; steps exclude evaluation and checkpoints. The
two sides alternate in rounds; the ratio is the median over the rounds.

    python benchmarks/bench_training.py [--json FILE]
"""

import sys
import time
from typing import Any

import torch
from frame import alternating, main, row
from steps import Timed, median_step, trained_step
from torch.utils.data import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, TrainerCallback, set_seed

from terse.evaluation.measures import Measure
from terse.methods.causal_lm.settings import CausalLMSettings
from terse.methods.causal_lm.spec import CAUSAL_LM
from terse.training.method import Inputs, Method

STEPS, ROUNDS, THREADS = 12, 7, 2
VOCAB, WIDTH, LAYERS, HEADS, BATCH, CTX = 2048, 128, 6, 4, 8, 256


class Rows(Dataset[Any]):
    """Rows of random tokens, drawn once."""

    def __init__(self, n: int) -> None:
        self.tokens = torch.randint(0, VOCAB, (n, CTX), generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.tokens[index], "labels": self.tokens[index]}


class Benchmarked(Method[CausalLMSettings]):
    """The default run's model on random rows."""

    spec = CAUSAL_LM

    def __init__(self, settings: CausalLMSettings, timed: Timed) -> None:
        super().__init__(settings, Inputs())
        self.timed = timed
        self.rows = Rows(BATCH * STEPS)

    def build(self) -> PreTrainedModel:
        config = LlamaConfig(
            vocab_size=VOCAB,
            hidden_size=WIDTH,
            intermediate_size=round(2.75 * WIDTH),
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            num_key_value_heads=HEADS,
            tie_word_embeddings=True,
        )
        return LlamaForCausalLM(config)

    def training_rows(self) -> Dataset[Any]:
        return self.rows

    def validation_rows(self) -> Dataset[Any]:
        return Rows(1)

    def evaluate(self, model: PreTrainedModel, device: str) -> list[Measure]:
        return []

    def callbacks(self) -> list[TrainerCallback]:
        return [self.timed]


def settings() -> CausalLMSettings:
    """Return the settings of both sides."""
    block = {
        "corpus": "none",
        "tokenizer": "none",
        "max_steps": STEPS,
        "batch_size": BATCH,
        "log_interval": 10,
        "eval_interval": 10_000,
        "checkpoint_steps": [],
    }
    return CausalLMSettings.model_validate(block)


def our_step(save_interval: int = 10_000) -> float:
    """Return the median seconds of a step on our path."""
    timed = Timed()
    return trained_step(Benchmarked(settings(), timed), timed, save_interval=save_interval)


def bare_step() -> float:
    """Return the same for a hand-written loop."""
    set_seed(0)
    method = Benchmarked(settings(), Timed())
    model = method.build().train()
    optimizer = torch.optim.AdamW(method.parameter_groups(model), lr=1e-3, betas=(0.9, 0.95))
    loader = torch.utils.data.DataLoader(method.rows, batch_size=BATCH, shuffle=True)
    ends = []
    for batch in loader:
        loss = model(**batch, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        ends.append(time.perf_counter())
    return median_step(ends)


def compare_steps() -> list[dict[str, Any]]:
    """Return the row of the training step."""
    our_step(), bare_step()  # warm-up
    found = alternating("training step, s", our_step, bare_step, ROUNDS, bound=1.05)
    if found["reference"] < 0.05:
        print("steps are shorter than 50 ms: the bound is for longer ones")
    return [found]


def compare_checkpoint() -> list[dict[str, Any]]:
    """Return the row of the seconds that saving the state adds to a step."""
    plain, saving = our_step(), our_step(save_interval=1)
    return [row("saving the state, s against a step", saving - plain, plain)]


PARTS = {"step": compare_steps, "checkpoint": compare_checkpoint}
SIZES = (
    f"Llama, vocabulary {VOCAB}, width {WIDTH}, {LAYERS} layers, batch {BATCH} x {CTX} tokens, "
    f"{ROUNDS} rounds of {STEPS} steps"
)

if __name__ == "__main__":
    sys.exit(main(__doc__, PARTS, SIZES, threads=THREADS))
