"""Sizes and operations that settings foretell, against those of real models."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from snakemake.utils import update_config
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from terse.config import load, read_yaml
from terse.methods.hierarchical.cost import (
    byte_transformer_flops,
    hierarchical_flops,
    parameters,
)
from terse.methods.hierarchical.likelihoods import causal_nats
from terse.methods.hierarchical.model import HierarchicalAutoencoder
from tiny_hierarchical import settings

# The counter knows the plain kernel, which multiplies every key, but not the fused one.
EACH_KEY = partial(sdpa_kernel, SDPBackend.MATH)
ROOT = Path(__file__).parents[4]
WIDE: dict[str, Any] = {"dim": 64, "heads": 4, "window": 8, "codebook_size": 64}
FOUR = {"entropy_delta": None, "entropy_abs_threshold": 99.0, "max_segment_len": 4}
KINDS: dict[str, Any] = {
    "one level": {},
    "two levels": {"levels": ({**WIDE, **FOUR}, {**WIDE, **FOUR, "num_queries": 2})},
    "decoder only": {"use_decoder_only_expander": True, "expander_lookback": 2},
    "encoder": {"expander_num_enc_layers": 2},
    "residual": {"levels": ({**WIDE, **FOUR, "quantizer": "residual"},)},
}


def chosen(kind: dict[str, Any]) -> Any:
    kind = dict(kind)
    levels = kind.pop("levels", ({**WIDE, **FOUR},))
    top = {"dim": 64, "num_layers": 2, "num_heads": 4}
    return settings(*levels, top=top, sequence_length=128, **kind)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_parameters_are_foretold(kind: dict[str, Any]) -> None:
    found = chosen(kind)
    model = HierarchicalAutoencoder(found)
    buffers = sum(b.numel() for name, b in model.named_buffers() if "quantizer" in name)
    actual = sum(p.numel() for p in model.parameters()) + buffers
    assert parameters(found) == pytest.approx(actual, rel=0.04)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_operations_are_foretold(kind: dict[str, Any]) -> None:
    found = chosen(kind)
    model = HierarchicalAutoencoder(found).eval()
    ids = torch.randint(0, 256, (1, 128))
    with torch.inference_mode(), EACH_KEY(), FlopCounterMode(display=False) as counter:
        causal_nats(model, ids)
    segments = [level.n.item() / 128 for level in model.encode(ids)]
    # Counted are the masked keys too, which no loop would read.
    assert hierarchical_flops(found, segments) == pytest.approx(
        counter.get_total_flops() / 128, rel=0.2
    )


def test_operations_of_a_byte_transformer() -> None:
    size = SimpleNamespace(
        ctx_len=128, d_model=64, n_layers=3, n_heads=4, n_kv_heads=None, h_mult=2.75
    )
    config = LlamaConfig(
        vocab_size=259, hidden_size=64, intermediate_size=176, num_hidden_layers=3,
        num_attention_heads=4,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    with torch.inference_mode(), EACH_KEY(), FlopCounterMode(display=False) as counter:
        model(input_ids=torch.randint(0, 256, (1, 128)), use_cache=False)
    masked = 3 * 4 * 64 * 128 / 2  # keys after the query, which the formula leaves out
    counted = counter.get_total_flops() / 128 - masked
    assert byte_transformer_flops(size) == pytest.approx(counted, rel=0.01)


@pytest.mark.parametrize(
    ("overlay", "ours", "theirs"),
    [(None, "codes-lm", "byte-lm"), ("hierarchical-small", "h2", "byte-equal")],
)
def test_baselines_cost_what_they_are_beside(overlay: str | None, ours: str, theirs: str) -> None:
    raw = read_yaml(ROOT / "config" / "config.yaml")
    if overlay:
        update_config(raw, read_yaml(ROOT / "config" / "experiments" / f"{overlay}.yaml"))
    runs: Any = load(raw).runs
    rate = runs[ours].compressor_level_configs[0].target_compression_ratio
    ratio = byte_transformer_flops(runs[theirs]) / hierarchical_flops(runs[ours], [rate])
    assert ratio == pytest.approx(1, abs=0.03)
