"""Costs against what is stored."""

import torch

from terse.methods.compression.cost import cache_bytes
from terse.methods.compression.model import Compressor


@torch.no_grad()
def test_cache_bytes_are_those_of_the_keys_and_values(model: Compressor) -> None:
    assert cache_bytes(model, torch.randn(1, 5, 16)) == 5 * 3 * 2 * 16 * 4
