"""Token forgetting: a packed pass with its mask, packing alone, a training step.

1. A pass over a packed row (n = 1024, f = 0.5, batch 1, about 30 M parameters), including the MLP
   mask, its decisions and packing, against the pass over the whole row: at most 0.6 x.
2. Packing alone against that packed pass: under 3 %.
3. A training step of `two_step` exploration on our path (batch 8, C = 192, S = 64, f = 0.5, a
   quarter of the rows whole) against a bare PyTorch loop that does the same: at most 1.05 x.

Sides alternate in rounds; ratios are medians over the rounds. Float32, 2 threads.

    python benchmarks/bench_forgetting.py [--json FILE] [--only pass|step]
"""

import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from frame import alternating, main, row
from steps import Timed, median_step, trained_step
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, TrainerCallback, set_seed

from terse.evaluation.flops import lm_flops
from terse.evaluation.measures import Measure
from terse.methods.forgetting.decisions import Calibration, decide, droppable
from terse.methods.forgetting.masks import MLPForgetMask
from terse.methods.forgetting.method import Forgetting
from terse.methods.forgetting.model import Forgetter
from terse.methods.forgetting.modes import packed_logits
from terse.methods.forgetting.packing import Packed, pack
from terse.methods.forgetting.settings import ForgettingSettings
from terse.training.method import Inputs

THREADS, STEPS, ROUNDS = 2, 8, 5
VOCAB, N, PASS_ROUNDS = 2048, 1024, 11
C, S, BATCH, F = 192, 64, 8, 0.5


def language_model(width: int, blocks: int) -> LlamaForCausalLM:
    """Return a random Llama-architecture model in eval mode."""
    set_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=width, intermediate_size=round(2.75 * width),
        num_hidden_layers=blocks, num_attention_heads=8, max_position_embeddings=N,
        tie_word_embeddings=True,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def compare_pass() -> list[dict[str, Any]]:
    """Return the rows of the packed pass and of packing; the sides alternate."""
    lm = language_model(512, 9).requires_grad_(False)
    mask = MLPForgetMask(lm).requires_grad_(False)
    ids = torch.randint(3, VOCAB, (1, N), generator=torch.Generator().manual_seed(0))
    real = torch.ones_like(ids, dtype=torch.bool)
    free = droppable(ids, real)
    threshold = Calibration.of(mask(ids, real), free).threshold(F)

    def packed() -> Packed:
        keep = decide(mask(ids, real), "calibrated", droppable=free, threshold=threshold)
        return pack(ids, keep, real)

    keep = decide(mask(ids, real), "calibrated", droppable=free, threshold=threshold)
    sides = {
        "whole": lambda: lm(input_ids=ids, attention_mask=real.long(), use_cache=False).logits,
        "packed": lambda: packed_logits(lm, packed()),
        "packing": lambda: pack(ids, keep, real),
    }
    rounds: dict[str, list[float]] = {name: [] for name in sides}
    with torch.inference_mode():
        for number in range(PASS_ROUNDS + 2):
            for name, side in sides.items():
                begin = time.perf_counter()
                side()
                if number >= 2:  # the first two warm up
                    rounds[name].append(time.perf_counter() - begin)
    median = {name: statistics.median(found) for name, found in rounds.items()}
    ratios = sorted(a / b for a, b in zip(rounds["packed"], rounds["whole"], strict=True))
    b = int(keep.sum())
    cost = lm_flops(lm)
    before, after = (float(cost.total(n, n)) for n in (N, b))
    n_parameters = sum(p.numel() for p in lm.parameters())
    print(
        f"pass: {n_parameters / 1e6:.1f} M parameters, {N} -> {b} tokens, ratio {ratios[0]:.3f} to "
        f"{ratios[-1]:.3f} over {PASS_ROUNDS} rounds; FLOPs {after / before:.3f}"
    )
    name = f"pass with mask and packing, n = {N}, f = {F}, s"
    return [
        row(name, median["packed"], median["whole"], statistics.median(ratios), 0.6),
        row(
            "packing alone, share of that pass, s", median["packing"], median["packed"], bound=0.03
        ),
    ]


def settings() -> ForgettingSettings:
    """Return the settings of both sides of a training step."""
    return ForgettingSettings.model_validate(
        {
            "method": "forgetting", "base": "b", "corpus": "c", "max_steps": STEPS,
            "batch_size": BATCH, "context_len": C, "block_len": S, "forget_p": F, "hidden_dim": 128,
            "schedule": "two_step", "exploration_epochs": [True], "log_interval": 10,
            "eval_interval": 10_000, "checkpoint_steps": [], "lr": 1e-3, "warmup_steps": 0,
        }
    )  # fmt: skip


class RandomRows(Dataset[Any]):
    """Windows of random tokens, drawn once."""

    def __init__(self, n: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.tokens = torch.randint(3, VOCAB, (n, C + S), generator=generator)

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        place = torch.arange(C + S)
        return {
            "input_ids": self.tokens[index],
            "attention_mask": place >= 0,
            "is_target": place >= C,
        }


class Benchmarked(Forgetting):
    """The method on random rows and a random base."""

    def __init__(self, lm: LlamaForCausalLM, timed: Timed) -> None:
        super().__init__(settings(), Inputs())
        self.lm, self.timed = lm, timed

    def build(self) -> Forgetter:
        return Forgetter(self.lm, MLPForgetMask(self.lm, 128), self.settings).train()

    def training_rows(self) -> Any:
        return RandomRows(STEPS * BATCH)

    def validation_rows(self) -> Any:
        return RandomRows(1)

    def evaluate(self, model: nn.Module, device: str) -> list[Measure]:
        return []

    def save(self, model: nn.Module, folder: Path) -> None:
        (folder / "nothing.json").write_text("{}")

    def callbacks(self) -> list[TrainerCallback]:
        return [*super().callbacks(), self.timed]


def our_step(lm: LlamaForCausalLM) -> float:
    """Return the median seconds of a step on our path."""
    timed = Timed()
    return trained_step(Benchmarked(lm, timed), timed)


def bare_step(lm: LlamaForCausalLM) -> float:
    """Return the same for a hand-written loop."""
    set_seed(0)
    lm.train().requires_grad_(True)
    optimizer = torch.optim.AdamW(lm.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.0)
    loader = torch.utils.data.DataLoader(RandomRows(STEPS * BATCH), batch_size=BATCH, shuffle=True)
    n_dropped = int(F * (C - 2))
    ends = []
    for batch in loader:
        ids = batch["input_ids"]
        scores = torch.rand(BATCH, C - 2)
        kept = scores.argsort(1).argsort(1) >= n_dropped
        keep = torch.ones(BATCH, C + S, dtype=torch.bool)
        keep[:, 1 : C - 1] = kept | (torch.rand(BATCH, 1) < 0.25)
        lengths = keep.sum(1)
        b = int(lengths.max())
        place = (~keep).byte().argsort(dim=1, stable=True)[:, :b]
        real = torch.arange(b) < lengths[:, None]
        labels = torch.full((BATCH, b), -100)
        following = torch.roll(ids, -1, 1).gather(1, place)
        scored = real & (place >= C - 1) & (place < C + S - 1)
        labels[scored] = following[scored]
        first = int(lengths.min()) - S - 1
        states = lm.model(
            input_ids=ids.gather(1, place) * real, attention_mask=real.long(),
            position_ids=place * real, use_cache=False,
        ).last_hidden_state[:, first:]  # fmt: skip
        loss = nn.functional.cross_entropy(
            lm.lm_head(states).flatten(0, 1), labels[:, first:].flatten()
        )
        loss.backward()
        nn.utils.clip_grad_norm_(lm.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        ends.append(time.perf_counter())
    return median_step(ends)


def compare_step() -> list[dict[str, Any]]:
    """Return the row of the training step."""
    lm = language_model(256, 8)
    our_step(lm), bare_step(lm)  # warm-up
    sides = (lambda: our_step(lm)), (lambda: bare_step(lm))
    return [alternating("training step of exploration, s", *sides, ROUNDS, bound=1.05)]


PARTS = {"pass": compare_pass, "step": compare_step}


if __name__ == "__main__":
    sys.exit(main(__doc__, PARTS, f"Llama, vocabulary {VOCAB}", threads=THREADS))
