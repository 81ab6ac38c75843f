"""Distributions over the symbols of a level, digit by digit."""

from typing import Any

import pytest
import torch

from terse.methods.hierarchical.symbols import NO_DIGIT, SymbolHead, framed
from tiny_hierarchical import draw


def test_a_symbols_probabilities_sum_to_one_over_all_its_digits() -> None:
    torch.manual_seed(0)
    head, K = SymbolHead(8, 3, 2), 3
    torch.nn.init.normal_(head.heads[1].weight)
    h = draw(8)
    whole: list[list[int]] = [[a, b] for a in range(K) for b in range(K)]
    symbols = torch.tensor([*whole, [K, NO_DIGIT], [K + 1, NO_DIGIT]])
    nats = head.nats(h.expand(len(symbols), -1), symbols)
    assert nats.neg().exp().sum().item() == pytest.approx(1, abs=1e-6)
    padding = torch.tensor([[K + 2, NO_DIGIT]])
    assert head.nats(h[None], padding).item() == 0.0


def test_entropy_of_one_digit_is_that_of_its_distribution() -> None:
    torch.manual_seed(0)
    head = SymbolHead(8, 5, 1)
    h = draw(4, 8)
    logits = head.logits(h, torch.zeros(4, 1, dtype=torch.long))[0]
    expected = torch.distributions.Categorical(logits=logits).entropy()
    torch.testing.assert_close(head.entropy(h), expected)


def test_frames_around_codes() -> None:
    codes = torch.tensor([[[1, 2], [3, 0]], [[2, 2], [9, 9]]])
    digits, mask = framed(codes, torch.tensor([2, 1]), 4)
    none: Any = NO_DIGIT
    assert digits.tolist() == [
        [[4, none], [1, 2], [3, 0], [5, none]],
        [[4, none], [2, 2], [5, none], [6, none]],
    ]
    assert mask.tolist() == [[True] * 4, [True] * 3 + [False]]
