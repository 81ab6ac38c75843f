"""A `causal-lm` training step on our path against a bare PyTorch loop, and a checkpoint's cost.

Same model, batch, optimiser and rows on both sides; steps exclude evaluation and checkpoints. The
two sides alternate in rounds; the ratio is the median over the rounds. The part `memory` compares
the peak of a step of SmolLM2-135M's shape (10 of its 30 layers) with and without the keys that
lower it, each in a process of its own; the part `loss` takes the loss of that vocabulary alone. The
part `smollm2` takes all 30 layers and rows of 512 tokens: ours, a bare loop and transformers' plain
Trainer in turn, each in its process; then ours with these keys. By default (batch 2, 3 rounds) it
does 18 steps; with steps of 20 s, as on two busy cores, that is 8 minutes. It needs 11 GB.
`--batch 8` takes four times as long and 31 GB, or 11 with one side after the other (`--apart`).

    python benchmarks/bench_training.py [--only PART] [--json FILE] [--batch N] [--rounds N]
        [--apart]
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from frame import alternating, main, row
from smollm2_steps import KEYS, SHAPE, Rows, be_side, compare
from steps import Timed, median_step, trained_step
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, TrainerCallback, set_seed

from terse.evaluation.measures import Measure
from terse.machine.memory import peak_bytes
from terse.methods.causal_lm.method import CausalLM
from terse.methods.causal_lm.settings import CausalLMSettings
from terse.methods.causal_lm.spec import CAUSAL_LM
from terse.training.chunked_loss import chunked_cross_entropy
from terse.training.method import Inputs, Method

STEPS, ROUNDS, THREADS = 12, 7, 2
VOCAB, WIDTH, LAYERS, HEADS, BATCH, CTX = 2048, 128, 6, 4, 8, 256


class Benchmarked(Method[CausalLMSettings]):
    """The default run's model on random rows."""

    spec = CAUSAL_LM

    def __init__(self, settings: CausalLMSettings, timed: Timed) -> None:
        super().__init__(settings, Inputs())
        self.timed = timed
        self.rows = Rows(BATCH * STEPS, CTX, VOCAB)

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
        return Rows(1, CTX, VOCAB)

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


def compare_memory() -> list[dict[str, Any]]:
    """Return the rows of the peak memory and processor seconds of a step of SmolLM2's shape."""
    found = {name: _in_own_process(keys) for name, keys in KEYS.items()}
    plain = found.pop("ours")
    return [
        row(f"{name}: {unit} of a step against one without", ours, reference)
        for name, side in found.items()
        for unit, ours, reference in zip(("MB", "processor s"), side, plain, strict=True)
    ]


def _in_own_process(keys: dict[str, Any]) -> tuple[float, float]:
    """Return the peak (MB) and the processor seconds of the second of two steps."""
    command = [sys.executable, __file__, "--one-step", json.dumps(keys)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    peak, seconds = map(float, said.split()[-2:])
    print(f"{keys}: {peak:.0f} MB, {seconds:.1f} s")
    return peak, seconds


def one_step(keys: dict[str, Any]) -> None:
    """Train two steps of 2 x 512 tokens on random weights; print the peak and the second's time."""
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    shape = {**SHAPE, "num_hidden_layers": 10}
    chosen = CausalLMSettings.model_validate(
        {"corpus": "none", "tokenizer": "none", "max_steps": 1, "checkpoint_steps": [], **keys}
    )
    method, model = CausalLM(chosen, Inputs()), LlamaForCausalLM(LlamaConfig(**shape)).train()
    method.prepare(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    tokens = torch.randint(0, SHAPE["vocab_size"], (2, 512))
    for _ in range(2):
        start = time.process_time()
        batch = {"input_ids": tokens, "labels": tokens}
        method.loss(model, batch, method.count(batch))[0].backward()
        optimizer.step()
        optimizer.zero_grad()
    seconds = time.process_time() - start
    print(peak_bytes() / 1e6, seconds)


def compare_loss() -> list[dict[str, Any]]:
    """Return the rows of the loss of SmolLM2's shape in chunks against that of all its logits."""
    torch.manual_seed(0)
    head = nn.Linear(SHAPE["hidden_size"], SHAPE["vocab_size"], bias=False)
    hidden = torch.randn(1022, SHAPE["hidden_size"], requires_grad=True)
    labels = torch.randint(SHAPE["vocab_size"], (1022,))

    def whole() -> Tensor:
        return cross_entropy(head(hidden), labels, reduction="sum")

    rows = []
    for chunk in (64, 128, 256, 512):
        chunked = partial(chunked_cross_entropy, hidden, head, labels, chunk)
        name = f"loss in chunks of {chunk} of 1022 positions, forward and backward"
        sides = (partial(_seconds_of, head, loss) for loss in (chunked, whole))
        rows.append(alternating(f"{name}, processor s", *sides, ROUNDS))
        rows.append(row(f"{name}, MB in use", _in_use(head, chunked), _in_use(head, whole)))
    return rows


def _seconds_of(head: nn.Module, loss: Callable[[], Tensor]) -> float:
    head.zero_grad()
    start = time.process_time()
    loss().backward()
    return time.process_time() - start


def _in_use(head: nn.Module, loss: Callable[[], Tensor]) -> float:
    """Return the most bytes (MB) that tensors of a loss and its gradients take at a time."""
    head.zero_grad()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        loss().backward()
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        seen.export_chrome_trace(file.name)
        events = json.loads(Path(file.name).read_text())["traceEvents"]
    changes = sorted((e["ts"], e["args"]["Bytes"]) for e in events if e.get("name") == "[memory]")
    return max(accumulate(size for _, size in changes)) / 1e6


PARTS = {
    "step": compare_steps,
    "checkpoint": compare_checkpoint,
    "memory": compare_memory,
    "loss": compare_loss,
    "smollm2": lambda: compare(SMOLLM2_BATCH, SMOLLM2_ROUNDS, apart=SMOLLM2_APART),
}
SIZES = (
    f"Llama, vocabulary {VOCAB}, width {WIDTH}, {LAYERS} layers, batch {BATCH} x {CTX} tokens, "
    f"{ROUNDS} rounds of {STEPS} steps"
)

if __name__ == "__main__":
    if sys.argv[1:2] == ["--one-step"]:
        sys.exit(one_step(json.loads(sys.argv[2])))
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--apart", action="store_true")
    parser.add_argument("--side")
    given, rest = parser.parse_known_args()
    if given.side:
        be_side(given.side, given.batch, THREADS)
    SMOLLM2_BATCH, SMOLLM2_ROUNDS, SMOLLM2_APART = given.batch, given.rounds, given.apart
    sys.argv[1:] = rest
    sys.exit(main(__doc__, PARTS, SIZES, threads=THREADS))
