"""Sliding-window attention against a naive loop."""

import math

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention.flex_attention import flex_attention

from terse.methods.hierarchical.attention import SlidingWindowAttention, blocked, flexible, windowed
from tiny_hierarchical import draw


def naive_window(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    out = torch.zeros_like(v)
    for t in range(q.shape[2]):
        read = slice(max(0, t - window), t + 1)
        scores = torch.einsum("bhd,bhkd->bhk", q[:, :, t], k[:, :, read]) / math.sqrt(q.shape[-1])
        out[:, :, t] = torch.einsum("bhk,bhkd->bhd", scores.softmax(-1), v[:, :, read])
    return out


@pytest.mark.parametrize(("T", "window"), [(1, 3), (9, 3), (12, 3), (13, 3), (5, 4), (9, 8)])
def test_windowed_attention_reads_the_window_only(T: int, window: int) -> None:
    q, k, v = (draw(2, 2, T, 4, seed=i).requires_grad_() for i in range(3))
    expected = naive_window(q, k, v, window)
    grads = torch.autograd.grad(expected.square().sum(), (q, k, v))
    ways = [windowed(q, k, v, window), blocked(q, k, v, window)]
    for found in ways:
        torch.testing.assert_close(found, expected)
        own = torch.autograd.grad(found.square().sum(), (q, k, v), retain_graph=True)
        torch.testing.assert_close(own, grads)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_reads_the_same_window() -> None:
    q, k, v = (draw(1, 2, 9, 8, seed=i) for i in range(3))
    found = flexible(q, k, v, 3, flex_attention)  # not compiled, the same mask
    torch.testing.assert_close(found, naive_window(q, k, v, 3))


@pytest.mark.parametrize(("width", "way"), [(8, "blocked"), (16, "flexible")])
def test_heads_too_narrow_for_the_compiled_kernel_go_without(
    width: int, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[str] = []
    module = "terse.methods.hierarchical.attention"
    monkeypatch.setattr(f"{module}.compiled_flex", lambda: None)
    for name in ("blocked", "flexible"):
        monkeypatch.setattr(f"{module}.{name}", lambda *_, name=name: used.append(name))
    with FakeTensorMode():
        q = torch.empty(1, 2, 40, width, device="cuda")
        windowed(q, q, q, 4)
    assert used == [way]


def test_padding_longer_than_the_window_gives_no_nan() -> None:
    torch.manual_seed(0)
    attention = SlidingWindowAttention(8, 2, 3)
    x = draw(1, 20, 8)
    short = attention(x[:, :5])
    x[:, 5:] = 0.0
    whole = attention(x)
    assert whole.isfinite().all()
    torch.testing.assert_close(whole[:, :5], short)
