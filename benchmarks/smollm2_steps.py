"""Training steps of a model of SmolLM2-135M's shape: ours, a bare loop, the Trainer, in turn.

Each side is a process of its own that does a step when it is told to, so that sides alternate step
by step and each has a peak of memory. All have the same model, rows, optimiser (fused AdamW), clip
and threads; only ours asks for deterministic kernels, as a run does.
"""

import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

import torch
from frame import Row, row
from steps import Timed, trained_step
from torch.utils.data import DataLoader, Dataset
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from terse.machine.memory import peak_bytes
from terse.methods.causal_lm.method import CausalLM
from terse.methods.causal_lm.settings import CausalLMSettings
from terse.training.method import Inputs

CTX, N_ROWS, N_STEPS = 512, 64, 1000  # no side gets to the end
SHAPE: dict[str, Any] = {
    "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
    "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True,
}  # fmt: skip
SIDES = ("ours", "bare", "trainer")
KEYS: dict[str, dict[str, Any]] = {
    "ours": {},
    "loss_chunk": {"loss_chunk": 128},
    "gradient_checkpointing": {"gradient_checkpointing": True},
    "both": {"loss_chunk": 128, "gradient_checkpointing": True},
}


class Rows(Dataset[Any]):
    """Rows of random tokens, drawn once."""

    def __init__(self, n: int, ctx: int, vocab: int) -> None:
        self.tokens = torch.randint(0, vocab, (n, ctx), generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.tokens[index], "labels": self.tokens[index]}


class Turns(TrainerCallback):
    """Does a step for each line of the standard input, and ends with it.

    Answers a step's wall and processor seconds, and at the end the peak of memory in bytes.
    """

    def __init__(self) -> None:
        self._out, sys.stdout = sys.stdout, sys.stderr  # the Trainer prints to it
        self._starts: tuple[float, float] | None = None

    def on_train_begin(self, *_args: Any, **_options: Any) -> None:
        self._wait()

    def on_step_end(self, *_args: Any, **_options: Any) -> None:
        wall, processor = self._starts or (0.0, 0.0)
        self._say(time.perf_counter() - wall, time.process_time() - processor)
        self._wait()

    def _wait(self) -> None:
        if not sys.stdin.readline():
            self._say(peak_bytes())
            raise SystemExit
        self._starts = time.perf_counter(), time.process_time()

    def _say(self, *numbers: float) -> None:
        print(*numbers, file=self._out, flush=True)


class OfThisShape(CausalLM):
    """The method `causal-lm` with random weights and rows."""

    def __init__(self, keys: dict[str, Any], batch: int, turns: Turns) -> None:
        block = {
            "corpus": "none", "tokenizer": "none", "max_steps": N_STEPS, "checkpoint_steps": [],
            "batch_size": batch, "ctx_len": CTX, "eval_interval": 10 * N_STEPS, **keys,
        }  # fmt: skip
        super().__init__(CausalLMSettings.model_validate(block), Inputs())
        self._turns = turns

    def build(self) -> PreTrainedModel:
        model = LlamaForCausalLM(LlamaConfig(**SHAPE)).train()
        self.prepare(model)
        return model

    def training_rows(self) -> Dataset[Any]:
        return Rows(N_ROWS, CTX, SHAPE["vocab_size"])

    def validation_rows(self) -> Dataset[Any]:
        return Rows(1, CTX, SHAPE["vocab_size"])

    def callbacks(self) -> list[TrainerCallback]:
        return [self._turns]


def be_side(name: str, batch: int, threads: int) -> NoReturn:
    """Be one side, in this process, until the standard input ends."""
    torch.set_num_threads(threads)
    set_seed(0)
    turns = Turns()
    method = OfThisShape(KEYS.get(name, {}), batch, turns)
    if name == "bare":
        _bare(method, batch, turns)
    elif name == "trainer":
        _trainer(method, batch, turns)
    else:
        trained_step(method, Timed())
    raise AssertionError("no step is left")


def _bare(method: OfThisShape, batch: int, turns: Turns) -> None:
    s, model = method.settings, method.build()
    groups = method.parameter_groups(model)
    optimizer = torch.optim.AdamW(groups, lr=s.lr, betas=(0.9, 0.95), fused=True)
    loader = DataLoader(method.training_rows(), batch_size=batch, shuffle=True)
    turns.on_train_begin()
    for rows in itertools.chain.from_iterable(itertools.repeat(loader)):
        model(**rows, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), s.grad_clip)
        optimizer.step()
        optimizer.zero_grad()
        turns.on_step_end()


def _trainer(method: OfThisShape, batch: int, turns: Turns) -> None:
    s = method.settings
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder, max_steps=N_STEPS, per_device_train_batch_size=batch, use_cpu=True,
            learning_rate=s.lr, weight_decay=s.l2, adam_beta2=0.95, max_grad_norm=s.grad_clip,
            save_strategy="no", report_to="none", disable_tqdm=True, dataloader_pin_memory=False,
        )  # fmt: skip
        rows = method.training_rows()
        Trainer(method.build(), arguments, train_dataset=rows, callbacks=[turns]).train()


class Side:
    """A side in its process: `step` it, then `end` it."""

    def __init__(self, name: str, batch: int) -> None:
        command = [sys.executable, sys.argv[0], "--batch", str(batch), "--side", name]
        # As terse's jobs have it: threads of a side that waits don't take the others' cores.
        environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
        self._process = subprocess.Popen(
            command, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self.name, self.peak = name, 0.0  # MB, known at its end
        self.seconds: list[tuple[float, float]] = []  # wall, processor; without the first step
        self.step()
        self.seconds.clear()  # makes the optimiser's state, warms up

    def step(self) -> None:
        """Do a step."""
        with suppress(BrokenPipeError):
            print(file=self._process.stdin, flush=True)
        wall, processor = self._answer()
        self.seconds.append((wall, processor))
        print(f"{self.name}: {wall:.2f} s, {processor:.2f} processor s", flush=True)

    def end(self) -> None:
        """End the process and note the peak of its memory."""
        self._process.stdin.close()  # type: ignore[union-attr]
        (peak,) = self._answer()
        self._process.wait()
        self.peak = peak / 1e6
        print(f"{self.name}: {self.peak:.0f} MB", flush=True)

    def middle(self, clock: int) -> float:
        """Return the median step: clock 0 is wall, 1 processor time."""
        return statistics.median(step[clock] for step in self.seconds)

    def _answer(self) -> list[float]:
        line = self._process.stdout.readline()  # type: ignore[union-attr]
        if not line:
            raise SystemExit(f"the side {self.name} ended with status {self._process.wait()}")
        return [float(number) for number in line.split()]


def step_flops(batch: int) -> float:
    """Return the FLOPs of a step: 6 per parameter and token, attention over earlier tokens only.

    The one matrix of both embeddings counts once; norms and softmaxes don't.
    """
    width, layers = SHAPE["hidden_size"], SHAPE["num_hidden_layers"]
    of_keys = width * SHAPE["num_key_value_heads"] // SHAPE["num_attention_heads"]
    block = width * (2 * width + 2 * of_keys + 3 * SHAPE["intermediate_size"])
    parameters = layers * block + SHAPE["vocab_size"] * width
    return batch * CTX * (6 * parameters + 6 * layers * CTX * width)


def matmul_rate(n: int = 2048, repeats: int = 5) -> float:
    """Return the most FLOP/s of a float32 product (n, n) x (n, n)."""
    a, b = torch.randn(n, n), torch.randn(n, n)
    return max(_timed(lambda: a @ b, 2 * n**3) for _ in range(repeats))


def _timed(act: Callable[[], object], flops: float) -> float:
    start = time.perf_counter()
    act()
    return flops / (time.perf_counter() - start)


def compare(batch: int, rounds: int, *, apart: bool) -> list[Row]:
    """Return the rows of three sides' steps, and of the keys that lower the peak of memory.

    apart: one side after the other instead of in turn, for machines that can't hold all three.
    """
    print(f"SmolLM2-135M's shape, random weights, batch {batch} x {CTX} tokens, {rounds} rounds")
    rates = [matmul_rate()]
    if apart:
        sides = [_alone(name, batch, rounds) for name in SIDES]
    else:
        sides = [Side(name, batch) for name in SIDES]
        for i in range(rounds):
            rates.append(matmul_rate())
            for side in sides if i % 2 else reversed(sides):
                side.step()
        for side in sides:
            side.end()
    ours, bare, trainer = sides
    rate, flops, tokens = statistics.median(rates), step_flops(batch), batch * CTX
    print(f"{flops / 1e12:.2f} TFLOP a step; matmul: {rate / 1e9:.0f} GFLOP/s")
    wall, reference = ours.middle(0), bare.middle(0)
    what = f"batch {batch} x {CTX}"
    found = [
        *_steps(f"step of {what} against", ours, bare, 1.05),
        *_steps(f"step of {what} against", ours, trainer, 1.0),
        row("tokens per second against bare", tokens / wall, tokens / reference),
        row("share of the matmul rate against bare",
            flops / wall / rate, flops / reference / rate),
        row("peak MB against bare", ours.peak, bare.peak, bound=1.1),
        row("peak MB against trainer", ours.peak, trainer.peak),
    ]  # fmt: skip
    for name in [name for name in KEYS if name != "ours"]:
        side = _alone(name, batch, 1)
        found.append(row(f"{name}: peak MB against bare", side.peak, bare.peak, bound=1.1))
        # The sides did not take turns, so processor time.
        found.append(row(f"{name}: processor s against ours", side.middle(1), ours.middle(1)))
    return found


def _alone(name: str, batch: int, rounds: int) -> Side:
    side = Side(name, batch)
    for _ in range(rounds):
        side.step()
    side.end()
    return side


def _steps(measure: str, ours: Side, other: Side, bound: float) -> list[Row]:
    """Return the rows of wall and of processor time."""
    rows = []
    for clock, unit in enumerate(("s", "processor s")):
        pairs = zip(ours.seconds, other.seconds, strict=True)
        ratios = sorted(a[clock] / b[clock] for a, b in pairs)
        print(f"{measure} {other.name}, {unit}: ratio {ratios[0]:.3f} to {ratios[-1]:.3f}")
        rows.append(row(f"{measure} {other.name}, {unit}", ours.middle(clock), other.middle(clock),
                        statistics.median(ratios), bound if clock == 0 else None))  # fmt: skip
    return rows
