"""Codes as a context, in a frontier."""

import pytest
import torch

from terse.errors import TerseError
from terse.methods.hierarchical.likelihoods import causal_nats
from terse.methods.hierarchical.reading import Coded
from terse.methods.hierarchical.settings import BOS
from tiny_frontier import measured, n_held, window
from tiny_hierarchical import model
from torch_flops import flops_by_torch


@torch.inference_mode()
def test_the_target_is_read_after_the_codes_of_the_context() -> None:
    found, way = window("some context, ", "its end"), Coded(model())
    (cost,) = way.read(found, [0.5])
    ids = torch.tensor([[BOS, *b"some context, its end"]])
    assert cost.nats == pytest.approx(float(causal_nats(way.model, ids)[0, -7:].sum()), rel=1e-5)
    assert (cost.n_targets, cost.positions_whole) == (7, 14)
    before = way.model.encode(ids[:, :15])[-1]
    assert cost.positions_held == int(before.n) < 14
    assert cost.flops == pytest.approx(
        flops_by_torch(lambda: causal_nats(way.model, ids)), rel=0.01
    )


def test_the_segments_are_measured() -> None:
    """The last one may have its end in the target."""
    way, given = Coded(model()), window("some context, ", "its end")
    n = n_held(way, given, 0.5)
    assert measured(way, given, 0.5, at_border=1) == [n, n]
    assert n > 1


def test_a_window_longer_than_a_row_is_one_line() -> None:
    way = Coded(model())
    with pytest.raises(TerseError, match="has 37 positions, but the run's rows have 32"):
        way.read(window("x" * 30, "y" * 6), [])
