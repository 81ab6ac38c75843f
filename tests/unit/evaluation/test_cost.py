"""Time, live memory and overlap, against what is known."""

import time

import pytest
import torch

from terse.evaluation.cost import interleaved, peak_memory
from terse.evaluation.overlap import bleu, longest_common, rouge_l


def test_peak_counts_what_is_alive_together() -> None:
    given = torch.ones(1000)

    def chain() -> torch.Tensor:
        x = given + 1  # 4000 bytes
        x = x + 1  # both alive while it is made
        return x + 1

    def both() -> torch.Tensor:
        return torch.stack([given + 1, given + 2])  # 8000 and the stack's 8000

    assert peak_memory(chain) == 8000
    assert peak_memory(both) == 16000
    assert peak_memory(lambda: given.view(10, 100)) == 0
    assert peak_memory(lambda: given.add_(1)) == 0


def test_interleaved_tells_the_slower() -> None:
    def wait(seconds: float) -> torch.Tensor:
        time.sleep(seconds)
        return torch.zeros(1)

    found = interleaved({"slow": lambda: wait(0.02), "fast": lambda: wait(0.005)}, rounds=3)
    assert found["slow"] > 2 * found["fast"] > 0.009


def test_overlap_by_hand() -> None:
    assert bleu([1, 2, 3, 4, 5], [1, 2, 3, 4, 5]) == 1.0
    assert bleu([7, 8, 9], [1, 2, 3]) == 0.0
    assert bleu([], [1]) == 0.0
    # 1-grams 3/4; added one: 2-grams 3/4, 3-grams 2/3, 4-grams 1/2; as long as the reference
    assert bleu([1, 2, 3, 9], [1, 2, 3, 4]) == pytest.approx(
        (3 / 4 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25
    )
    assert bleu([1, 2, 3, 4], [1, 2, 3, 4, 5]) == pytest.approx(2.718281828 ** (1 - 5 / 4))
    assert longest_common([1, 2, 3, 4, 1], [3, 4, 1, 2, 1, 3]) == 3
    assert rouge_l([1, 2, 3], [1, 3]) == pytest.approx(2 * 2 / 5)
    assert rouge_l([], [1]) == 0.0
