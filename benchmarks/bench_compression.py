"""Context compression: a training step, the compressing pass by layer, a context's cost.

1. A training step on our path (batch 8, k = 64, c = 4, 32 tokens forward, no control) against a
   bare PyTorch loop of the same two passes: at most 1.05 x.
2. The compressing pass at each `cmp_layer` against the same pass through all blocks: at most the
   share of blocks that run, + 10 % of the whole.
3. A context at k = 256, c = 4 before new text against all its tokens: time to the first token and
   bytes of the key-value cache, with the theoretical ratio of positions. Not a bound.

Sides alternate in rounds; ratios are medians over the rounds. Float32, 2 threads.

    python benchmarks/bench_compression.py [--json FILE] [--only step|layers|context]
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from frame import alternating, main, row
from steps import Timed, median_step, trained_step
from torch import nn
from torch.utils.data import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, TrainerCallback, set_seed

from terse.evaluation.cost import interleaved
from terse.evaluation.measures import Measure
from terse.methods.compression.cost import cache_bytes
from terse.methods.compression.frozen_lm import embed
from terse.methods.compression.method import Compression
from terse.methods.compression.model import Compressor
from terse.methods.compression.settings import CompressionSettings
from terse.training.method import Inputs

THREADS, STEPS, ROUNDS = 2, 8, 5
VOCAB, WIDTH, BLOCKS, HEADS, BATCH = 2048, 256, 8, 8, 8
K, C, N = 64, 4, 32
SIZES = f"Llama, vocabulary {VOCAB}, width {WIDTH}, {BLOCKS} blocks, batch {BATCH}"


def language_model() -> LlamaForCausalLM:
    """Return a random Llama-architecture model in eval mode."""
    set_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=WIDTH, intermediate_size=round(2.75 * WIDTH),
        num_hidden_layers=BLOCKS, num_attention_heads=HEADS, max_position_embeddings=1024,
        tie_word_embeddings=True,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval().requires_grad_(False)


def settings(**changes: Any) -> CompressionSettings:
    """Return the settings of both sides."""
    block = {
        "method": "compression", "base": "b", "corpus": "c", "max_steps": STEPS,
        "batch_size": BATCH, "cmp_len": K, "n_cmps": C, "seq_len": N, "seq_len_counts": "after",
        "static_control": False, "log_interval": 10, "eval_interval": 10_000,
        "checkpoint_steps": [], "lr": 1e-3,
    }  # fmt: skip
    return CompressionSettings.model_validate(block | changes)


class Rows(Dataset[Any]):
    """Windows of random tokens, drawn once."""

    def __init__(self, n: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.tokens = torch.randint(0, VOCAB, (n, K + N), generator=generator)

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        context, target = self.tokens[index].split([K, N])
        ones = {"context_mask": torch.ones_like(context), "target_mask": torch.ones_like(target)}
        return {"context": context, "target": target, "is_new": ones["target_mask"], **ones}


class Benchmarked(Compression):
    """The method on random rows and a random base."""

    def __init__(self, lm: LlamaForCausalLM, timed: Timed) -> None:
        super().__init__(settings(), Inputs(base=Path(__file__)))
        self.lm, self.timed = lm, timed

    def build(self) -> Compressor:
        return Compressor(self.lm, self.settings)

    def training_rows(self) -> Any:
        return Rows(STEPS * BATCH)

    def validation_rows(self) -> Any:
        return Rows(1)

    def evaluate(self, model: nn.Module, device: str) -> list[Measure]:
        return []

    def callbacks(self) -> list[TrainerCallback]:
        return [self.timed]


def our_step(lm: LlamaForCausalLM) -> float:
    """Return the median seconds of a step on our path."""
    timed = Timed()
    return trained_step(Benchmarked(lm, timed), timed)


def bare_step(lm: LlamaForCausalLM) -> float:
    """Return the same for a hand-written loop: the first 7 blocks, then all of them."""
    set_seed(0)
    rows = nn.Parameter(torch.randn(C + 2, WIDTH) * 0.02)
    optimizer = torch.optim.AdamW([rows], lr=1e-3, betas=(0.9, 0.95))
    loader = torch.utils.data.DataLoader(Rows(STEPS * BATCH), batch_size=BATCH, shuffle=True)
    table, shorter = lm.get_input_embeddings(), shortened(lm)
    ends = []
    for batch in loader:
        inside = torch.cat([table(batch["context"]), rows[:C].expand(BATCH, -1, -1)], 1)
        Z = shorter(inputs_embeds=inside, use_cache=False).last_hidden_state[:, -C:]
        cue = rows[C : C + 1].expand(BATCH, -1, -1)
        read = torch.cat([Z, cue, table(batch["target"][:, :-1])], 1)
        states = lm.model(inputs_embeds=read, use_cache=False).last_hidden_state[:, C:]
        loss = nn.functional.cross_entropy(
            lm.lm_head(states).flatten(0, 1), batch["target"].flatten()
        )
        loss.backward()
        nn.utils.clip_grad_norm_([rows], 1.0)
        optimizer.step()
        optimizer.zero_grad()
        ends.append(time.perf_counter())
    return median_step(ends)


def shortened(lm: LlamaForCausalLM) -> nn.Module:
    """Return the model's body without its last block and its norm, on the same weights."""
    body = LlamaForCausalLM(lm.config).model
    body.layers = lm.model.layers[:-1]
    body.norm = nn.Identity()
    body.rotary_emb = lm.model.rotary_emb
    return body.eval()


def compare_steps() -> list[dict[str, Any]]:
    """Return the row of the training step."""
    lm = language_model()
    our_step(lm), bare_step(lm)  # warm-up
    sides = (lambda: our_step(lm)), (lambda: bare_step(lm))
    return [alternating("training step, s", *sides, ROUNDS, bound=1.05)]


def compare_layers() -> list[dict[str, Any]]:
    """Return a row for each layer: the compressing pass against that through all blocks."""
    lm = language_model()
    context = torch.randint(0, VOCAB, (BATCH, 256))
    mask = torch.ones_like(context)
    models = {
        layer: Compressor(lm, settings(cmp_len=256, cmp_layer=layer))
        for layer in (0, 2, 4, 6, BLOCKS)
    }
    ways: dict[Any, Callable[[], torch.Tensor]] = {
        layer: lambda model=model: model.compress(context, mask) for layer, model in models.items()
    }
    with torch.inference_mode():
        seconds = interleaved(ways, rounds=9)
    whole = seconds[BLOCKS]
    return [
        row(f"compressing pass to layer {layer} of {BLOCKS}, s", found, whole, found / whole,
            layer / BLOCKS + 0.1)
        for layer, found in seconds.items()
        if layer != BLOCKS
    ]  # fmt: skip


def compare_context() -> list[dict[str, Any]]:
    """Return rows of a context at k = 256, c = 4: time to the first token, bytes of the cache."""
    lm = language_model()
    model = Compressor(lm, settings(cmp_len=256))
    rows = []
    with torch.inference_mode():
        for batch in (1, BATCH):
            context = torch.randint(0, VOCAB, (batch, 256))
            mask = torch.ones_like(context)
            whole = embed(lm, context)
            prefix = model.prefix(model.compress(context, mask), "forward")
            first = {
                "high": lambda whole=whole: first_token(lm, whole),
                "compressed": lambda prefix=prefix: first_token(lm, prefix),
                "compressing": lambda context=context, mask=mask: first_token(
                    lm, model.prefix(model.compress(context, mask), "forward")
                ),
            }
            seconds = interleaved(first, rounds=9)
            for way in ("compressed", "compressing"):
                name = f"time to first token, {way}, batch {batch}, s"
                rows.append(row(name, seconds[way], seconds["high"]))
        sizes = [float(cache_bytes(model, x[:1])) for x in (prefix, whole)]
        rows.append(row("key-value cache, bytes", *sizes))
    print(f"positions: {C + 1} against 256, ratio {(C + 1) / 256:.4f} in theory")
    return rows


def first_token(lm: LlamaForCausalLM, embeds: torch.Tensor) -> torch.Tensor:
    """Return the most likely next token after embeddings (B, T, E), only its logits computed."""
    return lm(inputs_embeds=embeds, use_cache=True, logits_to_keep=1).logits[:, -1].argmax(-1)


PARTS = {"step": compare_steps, "layers": compare_layers, "context": compare_context}


if __name__ == "__main__":
    sys.exit(main(__doc__, PARTS, SIZES, threads=THREADS))
