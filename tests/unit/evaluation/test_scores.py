"""Sums over documents against sums by hand."""

import math

import numpy as np
import pytest
import torch

from terse.evaluation.scores import DocumentSums, cost_measures, loss_measures


def summed() -> DocumentSums:
    sums = DocumentSums(4)
    for documents, nats in (([0, 2, 2], [1.0, 2.0, 4.0]), ([2, 0], [8.0, 16.0])):
        n = torch.ones(len(documents), dtype=torch.long)
        sums.add(
            "a", torch.tensor(documents), nats=torch.tensor(nats), n_targets=n, n_bytes=3 * n,
            positions=[5] * len(documents), flops=np.full(len(documents), 1e12),
        )  # fmt: skip
    sums.add("a", [0], mine=[0.5])
    return sums


def test_windows_add_up_by_document_and_those_without_targets_are_left_out() -> None:
    of = summed()["a"]
    assert of["nats"].tolist() == [17, 14]  # documents 0 and 2
    assert of["n_bytes"].tolist() == [6, 9]
    assert of["mine"].tolist() == [0.5, 0]
    assert summed().arms == ["a"]


def test_measures_are_ratios_of_sums_and_say_their_targets() -> None:
    of = summed()["a"]
    bits, loss = loss_measures("a", of, "some")
    positions, flops = cost_measures("a", of, "some")
    assert bits.value == pytest.approx(31 / math.log(2) / 15)
    assert (loss.value, positions.value) == (31 / 5, 25 / 15)
    assert flops.value == pytest.approx(5e12 / 15)
    found = (bits, loss, positions, flops)
    assert [m.measure for m in found] == [
        "bits_per_byte", "loss_nats", "positions_per_byte", "flops_per_byte",
    ]  # fmt: skip
    assert {(m.arm, m.n, m.targets) for m in found} == {("a", 2, "some")}
    assert loss.interval_low == pytest.approx(14 / 3)
    assert loss.interval_high == 17 / 2
