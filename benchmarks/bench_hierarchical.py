"""Hierarchical autoencoder: training step, cost of segmentation, cached codes, generation.

1. A training step (first stage, rows of 256 bytes, batch 16) against that of a byte Transformer of
   equal FLOPs per byte: at most 1.3 x.
2. Entropies, boundaries, pooling, quantiser and masks, forward and backward, as a share of that
   step: under 5 %; pooling alone under 2 %, and linear in the length of the row.
3. A second stage's step from cached codes against one that encodes its rows: at least 1.5 x faster.
4. Writing 512 bytes (width 256) with caches against recomputing the prefix for each byte: at least
   6 x faster at batch 1, 15 x at batch 16. The recomputed side is timed at eight evenly spread
   lengths, which represent all 512.

Sides alternate in rounds; ratios are medians over the rounds. Float32, 2 threads. Nothing is
compiled on a CPU, so there is nothing to compile again.

    python benchmarks/bench_hierarchical.py [--json FILE] [--only step|parts|codes|generation]
"""

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from frame import main, row
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from terse.evaluation.cost import interleaved
from terse.evaluation.flops import lm_flops
from terse.methods.hierarchical.cost import PASSES, row_cost
from terse.methods.hierarchical.generation import Reader, greedy
from terse.methods.hierarchical.method import Hierarchical
from terse.methods.hierarchical.model import HierarchicalAutoencoder
from terse.methods.hierarchical.segmentation import opened, segment_ids
from terse.methods.hierarchical.settings import BOS, HierarchicalSettings
from terse.training.method import Inputs

THREADS, ROUNDS = 2, 7
S, BATCH, WRITTEN = 256, 16, 512
LEVEL = {
    "dim": 128, "heads": 4, "window": 64, "codebook_size": 512, "entropy_delta": None,
    "entropy_abs_threshold": 99.0, "max_segment_len": 4,
}  # fmt: skip
TOP = {"dim": 192, "num_layers": 6, "num_heads": 6}
SIZES = f"rows of {S} bytes, batch {BATCH}, width {LEVEL['dim']}"


def settings(level: dict[str, Any] | None = None, **changes: Any) -> HierarchicalSettings:
    """Return the settings of our side; segments are four bytes, whatever the weights."""
    block = {
        "method": "hierarchical", "corpus": "c", "tokenizer": "b", "max_steps": 1,
        "checkpoint_steps": [], "sequence_length": S,
        "compressor_level_configs": [LEVEL | (level or {})],
    }  # fmt: skip
    return HierarchicalSettings.model_validate(block | changes)


def ids(batch: int, length: int) -> Tensor:
    """Return rows [BOS, random bytes] (batch, length)."""
    found = torch.randint(32, 127, (batch, length), generator=torch.Generator().manual_seed(0))
    found[:, 0] = BOS
    return found


def byte_transformer(flops: float) -> tuple[LlamaForCausalLM, str]:
    """Return the byte Transformer whose FLOPs per byte are nearest, and its size in words."""

    def made(width: int, n_layers: int) -> LlamaForCausalLM:
        config = LlamaConfig(
            vocab_size=259, hidden_size=width, intermediate_size=round(2.75 * width),
            num_hidden_layers=n_layers, num_attention_heads=4, max_position_embeddings=S,
            tie_word_embeddings=True,
        )  # fmt: skip
        return LlamaForCausalLM(config)

    def per_byte(width: int, n_layers: int) -> float:
        return float(lm_flops(made(width, n_layers).eval()).total(S, S)) / S

    sizes = [(width, n_layers) for width in range(64, 321, 16) for n_layers in range(3, 9)]
    found = {size: per_byte(*size) for size in sizes}
    best = min(sizes, key=lambda size: abs(found[size] / flops - 1))
    words = f"{best[1]} blocks, width {best[0]}, {found[best] / flops:.3f} x our FLOPs"
    return made(*best).train(), words


def stepper(model: nn.Module, loss: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Return a complete training step of a model."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)

    def step() -> Tensor:
        found = loss()
        found.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if isinstance(model, HierarchicalAutoencoder):
            model.after_step()
        return found.detach()

    return step


def our_step(found: HierarchicalSettings, batch: dict[str, Tensor]) -> Callable[[], Tensor]:
    """Return our training step on a batch."""
    torch.manual_seed(0)
    model = HierarchicalAutoencoder(found).train()
    method = Hierarchical(found, Inputs())
    return stepper(model, lambda: method.loss(model, batch, method.count(batch))[0])


def compare_steps() -> list[dict[str, Any]]:
    """Return the row of the training step."""
    found, tokens = settings(), ids(BATCH, S)
    model = HierarchicalAutoencoder(found).eval()
    flops = row_cost(model, ids(1, S), PASSES["model"])[1] / S
    baseline, words = byte_transformer(flops)
    print(f"{flops / 1e6:.2f} million FLOPs per byte; byte Transformer: {words}")
    theirs = stepper(
        baseline, lambda: baseline(input_ids=tokens, labels=tokens, use_cache=False).loss
    )
    seconds = interleaved({"ours": our_step(found, {"ids": tokens}), "theirs": theirs}, ROUNDS)
    ratio = seconds["ours"] / seconds["theirs"]
    return [row("training step, s", seconds["ours"], seconds["theirs"], ratio, 1.3)]


def segmenting(model: HierarchicalAutoencoder, x: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Return the work outside blocks and heads, forward and backward, on states (B, S, D)."""
    compressor = model.levels[0][0]
    logits = compressor.head.logits(x, x.new_zeros(*x.shape[:2], 1).long())[0].detach()
    mask = torch.ones(x.shape[:2], dtype=torch.bool)
    opens = opened(torch.zeros(x.shape[:2]), compressor.rule, compressor.shift)
    segment = segment_ids(opens)
    n = int(segment.max()) + 1
    pooled = compressor.pool(x, segment, mask, n).detach().requires_grad_()

    def pool() -> Tensor:
        found = compressor.pool(x.detach().requires_grad_(), segment, mask, n)
        found.sum().backward()
        return found

    def boundaries() -> Tensor:
        logs = torch.log_softmax(logits, -1)
        entropies = -(logs.exp() * logs).sum(-1)
        return segment_ids(opened(entropies, compressor.rule, compressor.shift))

    def quantise() -> Tensor:
        found = compressor.quantizer(pooled, mask[:, :n, None])
        (found.vectors.sum() + found.loss).backward()
        compressor.quantizer.after_step()
        return found.codes

    return {"pooling": pool, "entropies, boundaries": boundaries, "quantiser": quantise}


def compare_parts() -> list[dict[str, Any]]:
    """Return rows of the parts' shares of a step, and of pooling at twice the length."""
    found = settings()
    torch.manual_seed(0)
    model = HierarchicalAutoencoder(found).train()
    parts = segmenting(model, torch.randn(BATCH, S, LEVEL["dim"]))
    longer = segmenting(model, torch.randn(BATCH, 2 * S, LEVEL["dim"]))["pooling"]
    step = our_step(found, {"ids": ids(BATCH, S)})
    seconds = interleaved({**parts, "longer": longer, "step": step}, 2 * ROUNDS)
    for name in parts:
        print(f"{name}: {seconds[name] / seconds['step']:.2%} of a step")
    whole, own = sum(seconds[name] for name in parts), seconds["pooling"]
    return [
        row("segmentation in a step, s", whole, seconds["step"], bound=0.05),
        row("pooling in a step, s", own, seconds["step"], bound=0.02),
        row("pooling at twice the length, s", seconds["longer"], own, bound=2.3),
    ]


def compare_codes() -> list[dict[str, Any]]:
    """Return the row of a second stage's step with and without cached codes."""
    found = settings(top_transformer_config=TOP, tokenizer=None, base="b")
    torch.manual_seed(0)
    model = HierarchicalAutoencoder(found).train()
    for part in (model.compressors, model.expanders):
        part.requires_grad_(False).eval()
    method, tokens = Hierarchical(found, Inputs()), ids(BATCH, S)

    def encoded() -> dict[str, Tensor]:
        with torch.inference_mode():
            level = model.encode(tokens)[0]
        return {"ids": tokens, "opens0": level.opens.clone(), "codes0": level.codes.clone()}

    batch = {name: value.clone() for name, value in encoded().items()}

    def loss(cached: bool) -> Tensor:
        if not cached:
            encoded()
        return method.loss(model, batch, method.count(batch))[0]

    ways = {
        "cached": stepper(model, lambda: loss(True)),
        "encoding": stepper(model, lambda: loss(False)),
    }
    seconds = interleaved(ways, ROUNDS)
    measure = "second stage's step from cached codes, s"
    return [row(measure, seconds["cached"], seconds["encoding"], bound=1 / 1.5)]


@torch.inference_mode()
def written(model: HierarchicalAutoencoder, batch: int) -> float:
    """Return the seconds of writing with caches."""
    begin, reader = time.perf_counter(), Reader(model, batch)
    reader.begin()
    for _ in range(WRITTEN):
        reader.read(greedy(reader.logits()).clamp(max=255), reader.rows)
    return time.perf_counter() - begin


@torch.inference_mode()
def recomputed(model: HierarchicalAutoencoder, batch: int) -> float:
    """Return the seconds of writing with the prefix recomputed for each byte."""
    lengths = [WRITTEN * (2 * i + 1) // 16 for i in range(8)]
    begin = time.perf_counter()
    for length in lengths:
        levels = model.encode(ids(batch, length + 1))
        model.predicted_states(levels, model.code_lm(levels[-1].rows))
    return (time.perf_counter() - begin) * WRITTEN / len(lengths)


def compare_generation() -> list[dict[str, Any]]:
    """Return rows of writing at two batch sizes."""
    torch.manual_seed(0)
    level = {"dim": 256, "heads": 8}
    top = {"dim": 256, "num_layers": 6, "num_heads": 8}
    model = HierarchicalAutoencoder(settings(level, top_transformer_config=top)).eval()
    rows = []
    for batch, bound in ((1, 6), (16, 15)):
        sides = [(written(model, batch), recomputed(model, batch)) for _ in range(3)]
        ours, theirs = (statistics.median(side) for side in zip(*sides, strict=True))
        ratio = statistics.median(a / b for a, b in sides)
        rows.append(
            row(f"writing {WRITTEN} bytes, batch {batch}, s", ours, theirs, ratio, 1 / bound)
        )
    return rows


PARTS = {
    "step": compare_steps,
    "parts": compare_parts,
    "codes": compare_codes,
    "generation": compare_generation,
}


if __name__ == "__main__":
    sys.exit(main(__doc__, PARTS, SIZES, threads=THREADS))
