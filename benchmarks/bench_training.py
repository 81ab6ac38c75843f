"""A `causal-lm` training step on our path against a bare PyTorch loop, and what a checkpoint costs.

Same model, batch, optimiser and rows on both sides; evaluation and checkpoints are left out of the
steps. The two sides alternate in rounds; the ratio is the median over the rounds.

    python benchmarks/bench_training.py [--json FILE]
"""

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from rows import report, row
from steps import Timed, differences, trained_steps
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


def our_steps(save_interval: int = 10_000) -> list[float]:
    """Return the seconds of each step but the first two, on our path."""
    timed = Timed()
    return trained_steps(Benchmarked(settings(), timed), timed, save_interval=save_interval)


def bare_steps() -> list[float]:
    """Return the same of a loop written out by hand."""
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
    return differences(ends)


def checkpoint_cost() -> float:
    """Return the seconds that saving the state adds to a step."""
    plain = statistics.median(our_steps())
    saving = statistics.median(our_steps(save_interval=1))
    return saving - plain


def main() -> int:
    """Print the rows and return 1 where a bound does not hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    given = parser.parse_args()
    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(True)
    print(
        f"Llama, vocabulary {VOCAB}, width {WIDTH}, {LAYERS} layers, batch {BATCH} x {CTX} tokens, "
        f"float32, {THREADS} threads, {ROUNDS} rounds of {STEPS} steps"
    )
    our_steps(), bare_steps()  # warm-up
    rounds = []
    for i in range(ROUNDS):
        sides = [our_steps, bare_steps] if i % 2 else [bare_steps, our_steps]
        found = {side: statistics.median(side()) for side in sides}
        rounds.append((found[our_steps], found[bare_steps]))
    ratios = sorted(ours / bare for ours, bare in rounds)
    ours, bare = (statistics.median(side) for side in zip(*rounds, strict=True))
    saving = checkpoint_cost()
    rows = [
        row("training step, s", ours, bare, statistics.median(ratios), 1.05),
        row("saving the state, s against a step", saving, bare),
    ]
    print(f"ratio of the step: {ratios[0]:.3f} to {ratios[-1]:.3f} over the rounds")
    if bare < 0.05:
        print("steps are shorter than 50 ms: the bound is meant for longer ones")
    return report(rows, given.json)


if __name__ == "__main__":
    sys.exit(main())
