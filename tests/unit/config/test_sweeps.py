"""A sweep is the product of its lists; zipped lists advance together."""

import pytest
from snakemake.utils import update_config

from terse.config.sweeps import expand_sweeps
from terse.errors import TerseError


def test_product_of_lists_and_zip_groups() -> None:
    runs = {
        "c": {
            "method": "m",
            "sweep": {"lr": [0.1, 0.2], "zip": {"k": [1, 2, 3], "c": ["a", "b", "c"]}},
        },
        "plain": {"method": "m"},
    }
    expanded, members = expand_sweeps(runs)
    assert len(expanded) == 2 * 3 + 1
    assert expanded["c-0.2-3-c"] == {"method": "m", "lr": 0.2, "k": 3, "c": "c"}
    assert members["c"] == [n for n in expanded if n != "plain"]
    assert members["plain"] == ["plain"]


def test_negative_values_have_names_of_their_own() -> None:
    expanded, _ = expand_sweeps({"r": {"sweep": {"layer": [-2, 2, "half"], "lr": [1e-05]}}})
    assert list(expanded) == ["r--2-1e-05", "r-2-1e-05", "r-half-1e-05"]


@pytest.mark.parametrize(
    ("sweep", "words"),
    [
        ({"lr": 0.1}, "give a list of values, not 0.1"),
        ({"lr": []}, "give a list of values"),
        ({}, "give keys with lists"),
        ({"zip": {"a": [1], "b": [1, 2]}}, "equal length are needed; a has 1, b has 2"),
        ({"lr": [0.1, 0.1]}, "two runs would be called 'r-0.1'"),
    ],
)
def test_wrong_sweeps_are_refused(sweep: dict, words: str) -> None:
    with pytest.raises(TerseError, match=words):
        expand_sweeps({"r": {"seed": 3, "sweep": sweep}})


def test_a_sweep_in_a_later_file_counts_rather_than_the_value_below(
    caplog: pytest.LogCaptureFixture,
) -> None:
    runs = {"r": {"n_cmps": 4, "lr": 0.1}}
    update_config(runs, {"r": {"sweep": {"n_cmps": [1, 2]}}})  # as Snakemake merges the files
    expanded, _ = expand_sweeps(runs)
    assert expanded == {"r-1": {"n_cmps": 1, "lr": 0.1}, "r-2": {"n_cmps": 2, "lr": 0.1}}
    assert caplog.messages == ["runs.r.sweep.n_cmps: counts rather than n_cmps: 4"]
    update_config(runs, {"r": {"sweep": None}})
    assert expand_sweeps(runs)[0] == {"r": {"n_cmps": 4, "lr": 0.1}}


def test_a_value_that_follows_its_sweep_is_refused() -> None:
    runs = {"r": {"sweep": {"seed": [1, 2]}}}
    update_config(runs, {"r": {"seed": 3}})
    with pytest.raises(TerseError, match=r"runs\.r\.sweep\.seed: the key is also set outside"):
        expand_sweeps(runs)
