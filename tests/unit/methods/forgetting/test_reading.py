"""What the mask keeps of a context, in a frontier."""

from typing import Any

import pytest
import torch

from terse.evaluation.frontier.anew import Anew
from terse.evaluation.frontier.choices import Recency
from terse.evaluation.frontier.ends import Full
from terse.methods.forgetting.reading import Forgotten, reading
from tiny_forgetting import forgetting, text_rows
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


@torch.inference_mode()
@pytest.mark.parametrize("recent", [0.0, 0.5, 0.9])
def test_a_share_of_what_is_kept_is_the_last_tokens(recent: float, inputs: Any) -> None:
    method = forgetting(inputs, keep_recent=recent, decide="topk")
    way = reading(method, method.build().eval(), "cpu")
    rows, model = text_rows((41, 33), block=5), way.model
    free = model.free_tokens(rows, "prefix")
    for forget_p in (0.0, 0.25, 0.5, 0.8, 1.0):
        keep = model.decisions(rows, "prefix", forget_p)
        for kept, own in zip(keep, free, strict=True):
            n, chosen = int(own.sum()), kept[own]
            n_kept = n - int(n * forget_p)
            assert abs(int(chosen.sum()) - n_kept) <= 1
            last = int(recent * n_kept)
            assert chosen[n - last :].all()
        assert keep[~free].all()
    assert torch.equal(model.free_tokens(rows, "prefix"), free)


def test_the_last_tokens_are_outside_of_the_policy(inputs: Any) -> None:
    method = forgetting(inputs, keep_recent=0.5)
    model = method.build()
    rows = text_rows((30, 30), block=5)
    model.train()
    sums = model(**vars(rows))
    free, of_mask = (
        model.free_tokens(rows, "prefix"), model.tokens_of_mask(rows, "prefix", 0.5)
    )  # fmt: skip
    n = int(free.sum(1)[0])
    assert of_mask.sum(1).tolist() == [n - int(0.5 * (n - int(0.5 * n)))] * 2
    assert model.settings.explored == pytest.approx(0.5 / 0.75)
    logits = model.mask.logits(rows, rows.is_context)
    kept = torch.sigmoid(logits)[of_mask].sum()
    assert model._noted["kept"] == pytest.approx(kept.item(), rel=1e-5)
    assert model._noted["free"] == float(of_mask.sum())
    assert sums["dropped"] <= of_mask.sum()
