"""Learned-query pooling against a loop over segments and step by step."""

import torch
from torch import Tensor

from terse.methods.hierarchical.pooling import LearnedQueryAttention, StreamingPool
from tiny_hierarchical import draw


def naive_pool(attention: LearnedQueryAttention, x: Tensor, segment: Tensor, n: int) -> Tensor:
    L, H = attention.num_queries, attention.heads
    scores = attention.score(x).unflatten(-1, (L, H))
    values = attention.value(x).unflatten(-1, (H, -1))
    out = x.new_zeros(n, L, x.shape[-1])
    for i in range(n):
        at = segment == i
        shares = scores[at].softmax(0)  # (positions, L, H)
        out[i] = torch.einsum("plh,phd->lhd", shares, values[at]).flatten(1)
    return attention.out(out)


def test_pooling_equals_a_loop_over_segments() -> None:
    torch.manual_seed(0)
    attention = LearnedQueryAttention(8, 2, 3)
    x = draw(2, 10, 8).requires_grad_()
    segment = torch.tensor([[0, 0, 1, 2, 2, 2, 3, 4, 4, 4], [0, 1, 1, 1, 1, 2, 2, 2, 2, 9]])
    mask = torch.tensor([[True] * 10, [True] * 8 + [False] * 2])
    found = attention(x, segment, mask, 5)
    loops = [
        naive_pool(attention, x[0], segment[0], 5),
        naive_pool(attention, x[1, :8], segment[1, :8], 3),
    ]
    torch.testing.assert_close(found[0], loops[0])
    torch.testing.assert_close(found[1, :3], loops[1])
    wanted = [x, *attention.parameters()]
    ours = torch.autograd.grad(found[0].square().sum() + found[1, :3].square().sum(), wanted)
    oracle = torch.autograd.grad(sum(loop.square().sum() for loop in loops), wanted)
    torch.testing.assert_close(ours, oracle)


def test_pooling_step_by_step() -> None:
    torch.manual_seed(0)
    attention = LearnedQueryAttention(8, 2, 2)
    x, segment = draw(1, 9, 8) * 5, torch.tensor([[0, 0, 0, 1, 2, 2, 2, 2, 2]])
    expected = attention(x, segment, torch.ones(1, 9, dtype=torch.bool), 3)[0]
    pool, row, found = StreamingPool(attention, 1, x), torch.tensor([0]), []
    with torch.no_grad():
        for t in range(9):
            pool.add(x[:, t], row)
            if t == 8 or segment[0, t + 1] != segment[0, t]:
                found.append(pool.take(row)[0])
    torch.testing.assert_close(torch.stack(found), expected)
