"""Where segments open: the published example, a naive loop and the stream."""

import pytest
import torch

from terse.methods.hierarchical.segmentation import (
    Rule,
    StreamingSegmenter,
    offsets,
    opened,
    segment_ids,
)
from tiny_hierarchical import draw


def test_the_rule_by_its_published_example() -> None:
    H = torch.tensor([[1.0, 1.3, 1.7, 1.65, 2.0]])
    opens = opened(H, Rule(0.2, None, None), torch.zeros(()))
    assert segment_ids(opens).tolist() == [[0, 0, 1, 2, 2]]
    assert offsets(opens).tolist() == [[0, 1, 0, 0, 1]]


def naive_segments(H: list[float], rule: Rule, shift: float) -> list[int]:
    ids, length = [0], 1
    for t in range(1, len(H)):
        rises = rule.delta is not None and t > 1 and H[t - 1] > H[t - 2] + rule.delta + shift
        high = rule.threshold is not None and H[t - 1] > rule.threshold + shift
        new = rises or high or length == rule.max_len
        ids.append(ids[-1] + new)
        length = 1 if new else length + 1
    return ids


@pytest.mark.parametrize(
    "rule", [Rule(0.1, None, None), Rule(None, 0.4, 5), Rule(0.3, 0.9, 2), Rule(9.0, None, 3)]
)
def test_segments_equal_a_loop_and_the_stream(rule: Rule) -> None:
    H, shift = draw(4, 50), torch.tensor(0.05)
    ids = segment_ids(opened(H, rule, shift))
    for row, entropies in zip(ids.tolist(), H.tolist(), strict=True):
        assert row == naive_segments(entropies, rule, 0.05)
    stream, place = StreamingSegmenter(rule, shift, 4), torch.zeros(4, dtype=torch.long)
    for t in range(49):
        place = place + stream.step(H[:, t], torch.arange(4))
        assert torch.equal(place, ids[:, t + 1])
