"""The counter against torch's own, on real passes, and against the formula of the papers."""

import pytest
import torch
from torch import nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from terse.evaluation.flops import PassFlops, counted, lm_flops
from tiny_lms import BUILD
from torch_flops import flops_by_torch


def qwen3() -> PreTrainedModel:
    """Return a model with fewer keys than queries, and heads wider than its stream has room for."""
    config = Qwen3Config(
        vocab_size=61, hidden_size=16, intermediate_size=40, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=12, max_position_embeddings=64,
    )  # fmt: skip
    return Qwen3ForCausalLM(config)


BUILDERS = {**BUILD, "qwen3": qwen3}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("architecture", BUILDERS)
def test_equals_torchs_counter_at_lengths_that_were_not_measured(
    architecture: str, attention: str
) -> None:
    lm = BUILDERS[architecture]().eval()
    if attention == "eager":
        lm.set_attn_implementation("eager")
    cost = lm_flops(lm)
    for n, m in ((3, 1), (29, 7), (64, 64)):
        ids = torch.randint(3, 61, (1, n))
        expected = flops_by_torch(lambda i=ids, m=m: lm(i, use_cache=False, logits_to_keep=m))
        assert cost.total(n, m) == pytest.approx(expected, rel=0.01), (n, m)


@pytest.mark.parametrize("architecture", BUILDERS)
def test_equals_torchs_counter_after_cached_positions(architecture: str) -> None:
    lm = BUILDERS[architecture]().eval()
    ids = torch.randint(3, 61, (1, 41))
    with torch.no_grad():
        past = lm(ids[:, :30], use_cache=True).past_key_values
    expected = flops_by_torch(lambda: lm(ids[:, 30:], past_key_values=past, logits_to_keep=2))
    assert lm_flops(lm).total(11, 2, past=30) == pytest.approx(expected, rel=0.01)


def test_the_formula_for_a_llama() -> None:
    """2 per weight and position, 4 L H per pair, 2 H V per score."""
    H, F, L, V, n, m = 32, 96, 3, 203, 50, 20
    config = LlamaConfig(
        vocab_size=V, hidden_size=H, intermediate_size=F, num_hidden_layers=L,
        num_attention_heads=4,
    )  # fmt: skip
    expected = 2 * L * (4 * H * H + 3 * H * F) * n + 4 * L * H * n * n + 2 * H * V * m
    assert lm_flops(LlamaForCausalLM(config)).total(n, m) == pytest.approx(expected, rel=0.01)


def test_many_windows_at_once_are_counted_each_by_itself() -> None:
    cost = PassFlops(linear=1e9, attention=7.0, head=3.0)
    n, m = torch.tensor([3, 5]), torch.tensor([1, 2])
    assert cost.total(n, m).tolist() == [3e9 + 63 + 3, 5e9 + 175 + 6]
    assert cost.total(4, past=6) == 4e9 + 7 * 4 * 10


@pytest.mark.parametrize("cell", [nn.GRU, nn.LSTM, nn.RNN])
def test_fused_recurrent_kernels_count_too(cell: type[nn.RNNBase]) -> None:
    network, x = cell(10, 6, batch_first=True), torch.randn(2, 9, 10)
    expected = 2 * 2 * 9 * sum(p.numel() for p in network.parameters() if p.ndim == 2)
    assert counted(lambda: network(x)) == flops_by_torch(lambda: network(x)) == expected


def test_fused_attention_counts_all_pairs() -> None:
    q, k = torch.randn(2, 4, 9, 16), torch.randn(2, 4, 13, 16)
    attend = torch.nn.functional.scaled_dot_product_attention
    assert counted(lambda: attend(q, k, k)) == 2 * 4 * 4 * 9 * 13 * 16
