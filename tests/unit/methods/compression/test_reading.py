"""Contexts as vectors, block by block, in a frontier."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from terse.evaluation.frontier.windows import Window
from terse.methods.compression.model import Compressor
from terse.methods.compression.reading import Compressed, reading
from terse.training.method import Inputs
from tiny_compression import compression
from tiny_frontier import measured, n_held, window
from torch_flops import flops_by_torch

TEXT = "The loop is a new kind of statement, which"


@pytest.fixture
def way(inputs: Inputs, model: Compressor) -> Compressed:
    return reading(compression(inputs), model, "cpu")


def test_each_block_gives_its_vectors(way: Compressed, model: Compressor) -> None:
    """Blocks of 8 tokens become 2 vectors each; the first takes what is left over."""
    found = of_length(way, 19)
    tokens, blocks = way.reader.tokens(found), 3
    first = tokens.L - 8 * (blocks - 1)
    parts = [tokens.context[:first], *tokens.context[first:].split(8)]
    with torch.inference_mode():
        Z = [model.compress(p[None], torch.ones_like(p[None])) for p in map(_to_8, parts[1:])]
        short = torch.cat([parts[0].new_zeros(8 - first), parts[0]])[None]
        mask = torch.arange(8)[None] >= 8 - first
        Z.insert(0, model.compress(short, mask.long()))
        target = tokens.target[None]
        logits = model.read(
            model.prefix(torch.cat(Z, 1), "forward"), target, target.new_ones(target.shape)
        )
        cost = way.read(found, [0.5])[0]
    plain = cross_entropy(logits[0], tokens.target, reduction="sum")
    assert cost.nats == pytest.approx(float(plain), rel=1e-5)
    assert cost.positions_held == 2 * blocks


def test_its_vectors_are_what_is_measured(way: Compressed) -> None:
    given = of_length(way, 19)
    n = n_held(way, given, 0.5)
    assert measured(way, given, 0.5) == [n, n]
    assert n > 0


def of_length(way: Compressed, n: int) -> Window:
    """Return a window whose context has n tokens."""
    found = (window(TEXT[:i], " reads") for i in range(1, len(TEXT)))
    return next(one for one in found if n == way.reader.tokens(one).L)


def _to_8(part: torch.Tensor) -> torch.Tensor:
    assert len(part) == 8
    return part


def test_its_work_is_what_torch_counts(way: Compressed) -> None:
    found = of_length(way, 16)  # padding, of a shorter block, costs nothing by our count
    with torch.inference_mode():
        cost = way.read(found, [])[0]
        assert cost.flops == pytest.approx(flops_by_torch(lambda: way.read(found, [])), rel=0.01)
