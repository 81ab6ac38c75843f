"""Group-wise selection against a full sort."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from terse.dimension.selection import smallest, smallest_in_columns


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(21, 3000),
    k=st.integers(1, 21),
    seed=st.integers(0, 99),
    ties=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_equals_a_full_sort(n: int, k: int, seed: int, ties: bool, dtype: torch.dtype) -> None:
    random = torch.Generator().manual_seed(seed)
    values = torch.rand(3, n, generator=random, dtype=dtype) - 0.01 * (seed % 5)
    if ties:
        values = (values * 10).round()
    values[0, seed % n] = torch.inf
    found, columns = smallest(values, k)
    assert torch.equal(found, values.sort(-1).values[:, :k])
    assert torch.equal(values.gather(-1, columns), found)
    assert all(len(set(row)) == k for row in columns.tolist())
    transposed, rows = smallest_in_columns(values.T.contiguous(), k)
    assert torch.equal(transposed, found)
    assert torch.equal(values.gather(-1, rows), found)


@pytest.mark.parametrize("n", [21, 22, 400, 5003])
def test_takes_any_leading_shape(n: int) -> None:
    values = torch.rand(2, 3, n)
    assert torch.equal(smallest(values, 21)[0], values.sort(-1).values[..., :21])
