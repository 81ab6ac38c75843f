"""A stack of blocks step by step equals the parallel pass."""

import pytest
import torch

from terse.methods.hierarchical.blocks import Stack
from tiny_hierarchical import draw


@pytest.mark.parametrize("window", [3, None])
def test_a_stack_step_by_step_equals_the_parallel_pass(window: int | None) -> None:
    torch.manual_seed(0)
    stack = Stack(2, 8, 2, window, 2.0)
    x = draw(2, 40, 8)
    expected = stack(x)
    caches, n = stack.caches(2, x), [0, 0]
    order = [row for t in range(40) for row in ([0, 1] if t % 3 else [1])] + [0] * 14
    with torch.no_grad():
        for row in order:  # the rows advance at their own pace
            found = stack.step(x[[row], n[row]], caches, torch.tensor([row]))
            torch.testing.assert_close(found[0], expected[row, n[row]], rtol=1e-4, atol=1e-5)
            n[row] += 1
    assert n == [40, 40]
