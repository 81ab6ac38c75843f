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


def test_a_sweep_stands_for_its_runs() -> None:
    raw = read_yaml(CONFIG)
    raw["runs"]["codes-lm"]["sweep"] = {"lr": [0.001, 0.004]}
    raw["select"]["harness"] = ["codes-lm"]
    assert load(raw).scored_by_lm_eval() == ["codes-lm-0.001", "codes-lm-0.004", "base"]
    raw["select"]["harness"] = []
    assert load(raw).scored_by_lm_eval() == ["base", "codes-lm-0.001", "codes-lm-0.004"]


def test_a_kept_step_of_any_run_is_scored_though_it_is_not_measured() -> None:
    raw = read_yaml(CONFIG)
    raw["models"]["early"] = {"run": "codes-lm", "step": 100}
    raw["runs"]["codes-lm"] |= {"checkpoint_steps": [100]}
    raw["select"]["harness"] = ["early"]
    found = load(raw)
    assert found.harness_adapter("early").endswith("hierarchical.lm_eval:HierarchicalAELM")
    assert found.family("early") == "codes-lm"
    assert "codes-lm" not in found.families()  # of what has figures of its dimensions
    with pytest.raises(TerseError, match="its dimensions can't be measured"):
        found.measure("early")
    raw["select"]["ids"] = ["early"]
    with pytest.raises(TerseError, match=r"models\.early\.run: codes-lm of method hierarchical is"):
        load(raw)
