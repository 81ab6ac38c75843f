"""The table of the dimensions of a method's own vectors."""

import torch

from terse.dimension import estimate
from terse.evaluation.dimensions import REPORTED, dimensions_of


def test_a_row_for_each_cloud_and_estimator() -> None:
    plane = torch.randn(80, 2, generator=torch.Generator().manual_seed(0)) @ torch.randn(2, 9)
    doubled = torch.cat([plane, plane[:5]])
    table = dimensions_of({(0, "plane"): plane, (1, "doubled"): doubled}, "level", "cloud")
    assert table.columns.tolist() == [
        "level", "cloud", "estimator", "id", "n_eff", "n_dup", "flags",
    ]  # fmt: skip
    assert table["estimator"].tolist() == [*REPORTED, *REPORTED]
    assert table["level"].tolist() == [0] * 4 + [1] * 4
    expected = estimate(plane, ["mle_inv"])["mle_inv"]
    assert table["id"][0] == expected
    assert 1.5 < expected < 2.5
    assert table["n_eff"].tolist() == [80] * 8
    assert table["n_dup"].tolist() == [0] * 4 + [5] * 4


def test_one_name_takes_plain_keys() -> None:
    table = dimensions_of({"all": torch.randn(30, 3)}, "cloud")
    assert set(table["cloud"]) == {"all"}
