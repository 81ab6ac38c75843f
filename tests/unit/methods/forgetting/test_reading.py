"""What the mask keeps of a context, in a frontier."""

from typing import Any

import pytest
import torch

from terse.evaluation.frontier.anew import Anew
from terse.evaluation.frontier.choices import Recency
from terse.evaluation.frontier.ends import Full
from terse.methods.forgetting.reading import Forgotten, reading
from tiny_forgetting import forgetting
from tiny_frontier import measured, n_held, window

WINDOW = window("The loop is new, and so", " it reads")


@pytest.fixture
def way(published: Any) -> Forgotten:
    return reading(*published, "cpu")


@torch.inference_mode()
def test_it_is_full_at_rate_1_and_holds_less_at_lower_ones(way: Forgotten) -> None:
    whole, half, quarter, none = way.read(WINDOW, [1.0, 0.5, 0.25, 0.0])
    (full,) = Full(way.reader).read(WINDOW, [])
    assert whole.nats == pytest.approx(full.nats, rel=1e-5)
    assert whole.positions_held == full.positions_held == whole.positions_whole
    assert none.positions_held == 0 < quarter.positions_held < half.positions_held
    assert half.positions_held < whole.positions_held
    assert half.positions_computed == half.positions_held + half.n_targets
    assert half.flops > way.reader.anew_flops(int(half.positions_held), half.n_targets)


def test_the_kept_tokens_are_measured(way: Forgotten) -> None:
    n = n_held(way, WINDOW, 0.5)
    assert measured(way, WINDOW, 0.5) == [n, n]
    assert n > 0


@torch.inference_mode()
def test_a_mask_of_recency_reads_what_recency_reads(inputs: Any) -> None:
    method = forgetting(inputs, mask="recency", positions="compact", hidden_dim=512)
    way = reading(method, method.build().eval(), "cpu")
    (cost,) = way.read(WINDOW, [0.5])
    tokens = way.reader.tokens(WINDOW)
    n = int(cost.positions_held)
    (plain,) = Anew(way.reader, Recency()).read(WINDOW, [n / tokens.L])
    assert plain.positions_held == n
    assert cost.nats == pytest.approx(plain.nats, rel=1e-5)
