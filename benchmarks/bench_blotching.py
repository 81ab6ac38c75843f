"""Semantic blotching: generation with a cache, a training step, what shortening saves, the data.

1. Generation, batch 64, width 128, 150 new tokens each: with the key-value cache against reading
   the prefix again for each token: at most 0.1 x.
2. A training step on our path (chains solved, blotched, shortened and batched on the fly) against
   a bare PyTorch loop on prepared batches of the same rows: at most 1.05 x.
3. A training step with a share p = 0.25 .. 1 of the steps left out against p = 0, with the ratio of
   FLOPs: in 4 groups of similar length, and padded to the longest. Not a bound.
4. Masked sequences (`excise_tokens: false`) against shortened ones at p = 0.5. Not a bound.
5. Making a batch (problems, chains, blotches, tensors) against the training step: at most 0.1 x.

Sides alternate in rounds; ratios are medians over the rounds. Float32, one thread, this method's
default.

    python benchmarks/bench_blotching.py [--json FILE] [--only generation|step|shares|data]
"""

import statistics
import sys
import time
from typing import Any

import numpy as np
import torch
from frame import alternating, main, row
from steps import Timed, median_step, trained_step
from torch import nn
from transformers import TrainerCallback, set_seed

from terse.evaluation.flops import lm_flops
from terse.methods.blotching.cost import step_seconds
from terse.methods.blotching.generation import Ending, generate
from terse.methods.blotching.method import Blotching
from terse.methods.blotching.model import Blotcher
from terse.methods.blotching.rows import IGNORED, RequestedRows, collate
from terse.methods.blotching.settings import BlotchingSettings
from terse.training.method import Inputs

THREADS, STEPS, ROUNDS = 1, 12, 5
BATCH, WIDTH, LAYERS, NEW = 64, 128, 3, 150
SIZES = f"Llama, width {WIDTH}, {LAYERS} blocks, batch {BATCH}"


class Benchmarked(Blotching):
    """The method with a clock and without validation."""

    timed = Timed()

    def callbacks(self) -> list[TrainerCallback]:
        return [self.timed]

    def validation_rows(self) -> Any:
        return RequestedRows(self.validation_chains[:1], self.layout, 0.0)


def method(**changes: Any) -> Benchmarked:
    """Return the method on sums of up to three two-digit numbers."""
    block = {
        "method": "blotching", "max_steps": STEPS, "batch_size": BATCH, "warmup_steps": 2,
        "max_num": 99, "max_ents": 3, "n_problems": 4000, "n_val_problems": 200,
        "d_model": WIDTH, "n_layers": LAYERS, "n_heads": 4, "eval_interval": 10_000,
        "log_interval": 10_000, "checkpoint_steps": [], "length_groups": 1,
    }  # fmt: skip
    return Benchmarked(BlotchingSettings.model_validate(block | changes), Inputs())


def compare_generation() -> list[dict[str, Any]]:
    """Return the row of generation with the cache against reading the prefix again."""
    ours = method()
    set_seed(0)
    model = ours.build().eval()
    chain = ours.validation_chains[0]
    prompt = ours.layout.prompt(chain, 0.0)
    longest = len(prompt) + NEW
    places = np.tile(np.arange(longest), (BATCH, 1))

    def cached() -> torch.Tensor:
        return generate(model, [prompt] * BATCH, places, Ending(-1, 0, longest))

    def recomputed() -> torch.Tensor:
        return without_cache(model, prompt, longest)

    cached()  # warm-up
    rounds = []
    for _ in range(3):
        seconds, written = [], []
        for way in (cached, recomputed):
            begin = time.perf_counter()
            written.append(way())
            seconds.append(time.perf_counter() - begin)
        rounds.append(seconds)
        if not torch.equal(*written):
            raise SystemExit("generation with and without a cache differ")
    with_cache, without = (statistics.median(side) for side in zip(*rounds, strict=True))
    ratio = statistics.median(a / b for a, b in rounds)
    print(f"{BATCH * NEW / with_cache:.0f} tokens/s with the cache, {1 / ratio:.1f} x")
    return [row(f"generating {NEW} tokens, batch {BATCH}, s", with_cache, without, ratio, 0.1)]


@torch.inference_mode()
def without_cache(model: Blotcher, prompt: np.ndarray, longest: int) -> torch.Tensor:
    """Return the greedy continuation (BATCH, new), the whole prefix read for each token."""
    ids = torch.from_numpy(prompt).repeat(BATCH, 1)
    start = ids.shape[1]
    for n in range(start, longest):
        places = torch.arange(n).expand(BATCH, -1)
        logits = model(ids, torch.ones_like(ids), places)[:, -1]
        ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], 1)
    return ids[:, start:]


def our_step() -> float:
    """Return the median seconds of a step on our path."""
    Benchmarked.timed = Timed()
    return trained_step(method(), Benchmarked.timed)


def bare_step() -> float:
    """Return the same for a hand-written loop on prepared batches."""
    ours = method()
    rows = ours.training_rows()
    batches = [
        ours.collate([rows[i] for i in range(first, first + BATCH)])
        for first in range(0, len(rows), BATCH)
    ]
    set_seed(0)
    model = ours.build()
    optimizer = torch.optim.AdamW(ours.parameter_groups(model), lr=1e-3, betas=(0.9, 0.95))
    ends = []
    for batch in batches:
        ids = batch["input_ids"]
        is_request = ids >= model.vocab_size
        table, requests = model.lm.get_input_embeddings(), model.intensity
        if requests is None:
            raise SystemExit("the benchmark is of the arm intensity")
        words = table(ids.masked_fill(is_request, 0))
        asked = requests((ids - model.vocab_size).clamp(min=0))
        embeds = torch.where(is_request[..., None], asked, words)
        logits = model.lm(inputs_embeds=embeds, use_cache=False).logits
        loss = nn.functional.cross_entropy(
            logits.flatten(0, 1), batch["labels"].flatten(), ignore_index=IGNORED
        )
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        ends.append(time.perf_counter())
    return median_step(ends)


def compare_steps() -> list[dict[str, Any]]:
    """Return the row of the training step."""
    return [alternating("training step, s", our_step, bare_step, ROUNDS, bound=1.05)]


def compare_shares() -> list[dict[str, Any]]:
    """Return rows of a step at each share left out, and of masking instead of shortening."""
    ours, masked = method(), method(excise_tokens=False)
    model = ours.build()
    rows = []
    for n_groups in (4, 1):
        batches = {p: batch_at(ours, p) for p in (0.0, 0.25, 0.5, 0.75, 1.0)}
        seconds = step_seconds(model, batches, ROUNDS, n_groups)
        flops = {p: flops_of(model, batch) for p, batch in batches.items()}
        for p, batch in batches.items():
            n_tokens = int(batch["attention_mask"].sum())
            print(
                f"{n_groups} groups, p = {p}: {n_tokens / BATCH:.1f} tokens a chain, "
                f"{n_tokens / seconds[p]:.0f} tokens/s, FLOPs {flops[p] / flops[0.0]:.3f}"
            )
            rows.append(row(f"step at p = {p}, {n_groups} groups, s", seconds[p], seconds[0.0]))
    short, whole = batch_at(ours, 0.5), batch_at(masked, 0.5)
    shortened = step_seconds(model, {0.5: short}, ROUNDS, 4)[0.5]
    rows.append(
        row("masked at p = 0.5, s", step_seconds(model, {0.5: whole}, ROUNDS, 0)[0.5], shortened)
    )
    return rows


def flops_of(model: Blotcher, batch: dict[str, torch.Tensor]) -> float:
    """Return the FLOPs of a forward pass over shortened chains."""
    lengths, n_targets = batch["attention_mask"].sum(1), batch["labels"].ne(-100).sum(1)
    return float(lm_flops(model.lm).total(lengths, n_targets).sum())


def batch_at(ours: Benchmarked, p: float) -> dict[str, torch.Tensor]:
    """Return a batch of held-out chains with a share p of the steps left out."""
    rows = RequestedRows(ours.validation_chains, ours.layout, p)
    return collate([rows[i] for i in range(BATCH)], 0)


def compare_data() -> list[dict[str, Any]]:
    """Return the row of making a batch from scratch against training on it."""
    begin = time.perf_counter()
    ours = method()
    n_chains = len(ours.arithmetic.train) if ours.arithmetic is not None else 0
    per_chain = (time.perf_counter() - begin) / n_chains
    rows = ours.training_rows()
    times = []
    for first in range(0, len(rows), BATCH):
        begin = time.perf_counter()
        batch = ours.collate([rows[i] for i in range(first, first + BATCH)])
        times.append(time.perf_counter() - begin)
    step = step_seconds(ours.build(), {0.0: batch}, ROUNDS, 1)[0.0]
    print(
        f"{1 / per_chain:.0f} problems/s drawn and solved; {statistics.median(times):.4f} s a batch"
    )
    made = statistics.median(times) + BATCH * per_chain
    return [row("making a batch, problems solved anew, s", made, step, made / step, 0.1)]


PARTS = {
    "generation": compare_generation,
    "step": compare_steps,
    "shares": compare_shares,
    "data": compare_data,
}


if __name__ == "__main__":
    sys.exit(main(__doc__, PARTS, SIZES, threads=THREADS, deterministic=False))
