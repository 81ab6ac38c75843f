"""What is logged besides the objective: sums of parts, and quotients of sums."""

import json

import torch

from terse.training.terms import TermSums


def test_parts_are_averaged_over_steps_and_pairs_over_their_counts() -> None:
    sums = TermSums()
    sums.add({"rate": 0.25, "nats": (torch.tensor(6.0, requires_grad=True), 2), "never": (0.0, 0)})
    sums.add({"rate": torch.tensor(0.5), "nats": (12.0, torch.tensor(4)), "never": (0.0, 0)})
    assert sums.means(1) == {"rate": 0.75, "nats": 3.0}  # nothing counted: no value
    assert sums.means(3)["rate"] == 0.25
    assert sums.means(3)["nats"] == 3.0


def test_what_is_saved_goes_on_after_a_stop_and_over_processes() -> None:
    sums = TermSums()
    sums.add({"rate": 0.25, "nats": (6.0, 2)})
    again = TermSums(json.loads(json.dumps(sums.as_json())))
    again.add({"rate": 0.25, "nats": (0.0, 1)})
    assert again.means(1) == {"rate": 0.5, "nats": 2.0}
    both = again.over_processes(lambda mine: [2 * value for value in mine])
    assert both.means(1) == {"rate": 1.0, "nats": 2.0}
