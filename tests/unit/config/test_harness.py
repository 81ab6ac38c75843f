"""What `all` scores with lm-eval."""

from pathlib import Path

import pytest

from terse.config import load, read_yaml
from terse.errors import TerseError

CONFIG = Path(__file__).parents[3] / "config" / "config.yaml"


@pytest.mark.parametrize(
    ("select", "scored"),
    [
        ({}, ["base", "codes-lm"]),
        ({"runs": [], "ids": []}, []),  # nothing is trained only to be scored
        ({"runs": ["codes-lm"], "ids": []}, ["codes-lm"]),
        ({"runs": ["forget"], "ids": [], "harness": ["forget"]}, ["forget"]),
        ({"harness": ["compress", "base"]}, ["compress", "base", "codes-lm"]),
    ],
)
def test_the_default_table_is_of_what_is_selected(
    select: dict[str, list[str]], scored: list[str]
) -> None:
    raw = read_yaml(CONFIG)
    assert load({**raw, "select": raw["select"] | select}).scored_by_lm_eval() == scored


def test_what_it_names_has_to_exist_once_it_is_selected() -> None:
    raw = read_yaml(CONFIG)
    raw["harness"] |= {"if_selected": ["codes", "nothing"]}
    with pytest.raises(TerseError, match="codes of method hierarchical has no likelihood"):
        load(raw)
    raw["select"] = {"runs": ["base"], "ids": []}
    assert load(raw).scored_by_lm_eval() == []
