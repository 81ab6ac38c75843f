"""Sizes foretold by settings, and FLOPs that are counted, against formulas and real models."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from snakemake.utils import update_config
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from terse.config import load, read_yaml
from terse.evaluation.flops import lm_flops
from terse.methods.hierarchical.cost import PASSES, row_cost
from terse.methods.hierarchical.model import HierarchicalAutoencoder
from terse.methods.hierarchical.settings import BYTES, HierarchicalSettings, LevelSettings
from terse.methods.hierarchical.size import parameters
from tiny_hierarchical import settings
from torch_flops import flops_by_torch

ROOT = Path(__file__).parents[4]
S = 128
WIDE: dict[str, Any] = {"dim": 64, "heads": 4, "window": 8, "codebook_size": 64}
FOUR = {"entropy_delta": None, "entropy_abs_threshold": 99.0, "max_segment_len": 4}
KINDS: dict[str, Any] = {
    "one level": {},
    "two levels": {"levels": ({**WIDE, **FOUR}, {**WIDE, **FOUR, "num_queries": 2})},
    "decoder only": {"use_decoder_only_expander": True, "expander_lookback": 2},
    "encoder": {"expander_num_enc_layers": 2},
    "residual": {"levels": ({**WIDE, **FOUR, "quantizer": "residual"},)},
    "long windows": {"levels": ({**WIDE, **FOUR, "window": 100},)},
}


def chosen(kind: dict[str, Any]) -> HierarchicalSettings:
    kind = dict(kind)
    levels = kind.pop("levels", ({**WIDE, **FOUR},))
    top = {"dim": 64, "num_layers": 2, "num_heads": 4}
    return settings(*levels, top=top, sequence_length=S, **kind)


def bytes_row() -> Tensor:
    return torch.randint(0, BYTES, (1, S), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_parameters_are_foretold(kind: dict[str, Any]) -> None:
    found = chosen(kind)
    model = HierarchicalAutoencoder(found)
    buffers = sum(b.numel() for name, b in model.named_buffers() if "quantizer" in name)
    actual = sum(p.numel() for p in model.parameters()) + buffers
    assert parameters(found) == pytest.approx(actual, rel=0.04)


# --- FLOPs of causal decoding, by hand: T symbols of a level, n segments of it -------------------


def blocks(n_blocks: int, T: int, dim: int, multiplier: float, window: int | None) -> float:
    """Maps of attention and MLP, and the keys that a query's matrices hold."""
    pairs = T * T
    if window is not None and 2 * window < T:  # blocks of queries, two blocks of keys each
        pairs = -(-T // window) * window * 2 * window
    hidden = round(multiplier * dim)
    return n_blocks * (2 * T * (4 * dim**2 + 3 * hidden * dim) + 4 * dim * pairs)


def head(T: int, dim: int, K: int, G: int) -> float:
    return 2 * T * dim * (K + 2 + (G - 1) * K)


def expected_embeddings(T: int, dim: int, K: int, G: int) -> float:
    """The head's further digits are read from what is expected of the ones before."""
    return 2 * T * dim * K * (G - 1)


def compressor(level: LevelSettings, T: int, n: int, below: int, K: int, G: int) -> float:
    dim, wide, L, d = (
        level.dim,
        level.encoder_ffn_dim_multiplier,
        level.num_queries,
        level.digits_per_vector,
    )
    total = 2 * (T - 2) * below * dim
    total += blocks(level.num_shared_encoder_layers, T, dim, wide, level.window)
    total += blocks(level.n_lm_layers, T, dim, wide, level.lm_window or level.window)
    window = level.compression_window or level.window
    total += blocks(level.n_compression_layers, T, dim, wide, window)
    total += head(T, dim, K, G) + expected_embeddings(T, dim, K, G)
    total += 2 * T * dim * (L * level.heads + dim)  # scores and values of the pool
    total += 2 * n * L * dim**2  # and what it puts out
    return total + 2 * n * L * dim * level.codebook_size * d  # distances to all codes


def expander(
    s: HierarchicalSettings, level: LevelSettings, T: int, n: int, n_memories: int
) -> float:
    """Without its head; T: symbols that it predicts."""
    dim, wide, L = (
        level.expander_dim(s.expander_dim_scale),
        level.encoder_ffn_dim_multiplier,
        level.num_queries,
    )
    total = blocks(s.expander_num_dec_layers, T, dim, wide, level.window)
    memory = 2 * n * L * level.dim * dim
    memory += blocks(s.expander_num_enc_layers, n * L, dim, wide, level.window)
    rows = (s.expander_lookback + 1) * L
    if s.use_decoder_only_expander:
        return total + n_memories * memory + 2 * T * rows * dim**2
    keys = 2 * n * L * dim * 2 * dim * s.expander_num_dec_layers
    reads = 2 * T * 2 * dim**2 + 4 * T * rows * dim
    return total + n_memories * (memory + keys) + s.expander_num_dec_layers * reads


def causal_flops(s: HierarchicalSettings, n_segments: list[int]) -> float:
    total, T, K, G, below = 0.0, S, BYTES, 1, 0
    for i, (level, n) in enumerate(zip(s.compressor_level_configs, n_segments, strict=True)):
        total += compressor(level, T, n, below, K, G) + expander(s, level, T - 1, n, 2)
        dim = level.expander_dim(s.expander_dim_scale)
        if i == 0:
            total += head(T - 1, dim, K, G)
        else:  # only what the level below has segments for is expected
            under = s.compressor_level_configs[i - 1]
            total += head(T - 2, dim, K, G) + expected_embeddings(T - 2, dim, K, G)
            total += 2 * (T - 2) * under.n_digits * K * under.dim
        K, G, below = level.codebook_size, level.n_digits, level.num_queries * level.dim
        T = n + 2
    top, last, n = s.top_transformer_config, s.compressor_level_configs[-1], n_segments[-1]
    assert top is not None
    total += 2 * n * below * top.dim
    total += blocks(top.num_layers, n + 1, top.dim, top.ffn_dim_multiplier, None)
    total += head(n, top.dim, K, G) + expected_embeddings(n, top.dim, K, G)
    return total + 2 * n * last.n_digits * K * last.dim


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_what_is_counted_is_what_the_formulas_say(kind: dict[str, Any]) -> None:
    model = HierarchicalAutoencoder(chosen(kind)).eval()
    ids = bytes_row()
    with torch.no_grad():
        n_segments = [int(level.n) for level in model.encode(ids)]
    positions, flops = row_cost(model, ids, PASSES["causal"])
    assert flops == flops_by_torch(lambda: PASSES["causal"](model, ids))
    assert flops == pytest.approx(causal_flops(model.settings, n_segments), rel=0.01)
    lengths = [S, *(n + 2 for n in n_segments[:-1])]
    assert positions == sum(2 * T - 1 for T in lengths) + n_segments[-1] + 1


def test_less_is_counted_where_less_is_done() -> None:
    model, ids = HierarchicalAutoencoder(chosen({})).eval(), bytes_row()
    flops = {arm: row_cost(model, ids, likelihood)[1] for arm, likelihood in PASSES.items()}
    assert flops["model"] < flops["two_part"] < flops["causal"]


# --- byte Transformers that are compared with --------------------------------------------------


def per_byte(run: Any) -> float:
    """Return the FLOPs per byte of a run's model in one whole row."""
    if run.method == "causal-lm":
        config = LlamaConfig(
            vocab_size=259, hidden_size=run.d_model, num_hidden_layers=run.n_layers,
            intermediate_size=round(run.h_mult * run.d_model), num_attention_heads=run.n_heads,
            num_key_value_heads=run.n_kv_heads or run.n_heads, tie_word_embeddings=True,
        )  # fmt: skip
        cost = lm_flops(LlamaForCausalLM(config).eval())
        return float(cost.total(run.ctx_len, run.ctx_len)) / run.ctx_len
    levels = [level.model_dump() for level in run.compressor_level_configs]
    for level in levels:  # cut as often as the training makes it, whatever the weights
        longest = round(1 / level["target_compression_ratio"])
        level |= FOUR | {"max_segment_len": longest, "target_compression_ratio": None}
    cut = run.model_copy(
        update={"compressor_level_configs": [LevelSettings(**level) for level in levels]}
    )
    ids = torch.randint(0, BYTES, (1, run.sequence_length))
    _, flops = row_cost(HierarchicalAutoencoder(cut).eval(), ids, PASSES["causal"])
    return flops / run.sequence_length


def pairs() -> Iterator[tuple[str | None, str, str]]:
    yield None, "codes-lm", "byte-lm"
    yield "hierarchical-small", "h2", "byte-equal"


@pytest.mark.parametrize(("overlay", "ours", "theirs"), pairs())
def test_baselines_cost_what_they_are_compared_with(
    overlay: str | None, ours: str, theirs: str
) -> None:
    raw = read_yaml(ROOT / "config" / "config.yaml")
    if overlay:
        update_config(raw, read_yaml(ROOT / "config" / "experiments" / f"{overlay}.yaml"))
    runs: Any = load(raw).runs
    ratio = per_byte(runs[theirs]) / per_byte(runs[ours])
    assert 1 <= ratio < 1.12  # as many FLOPs, or a tenth more
