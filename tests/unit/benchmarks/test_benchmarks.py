"""Benchmarks start, their sides alternate, and a missed bound is reported."""

import json
import runpy
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[3] / "benchmarks"
SCRIPTS = sorted(path.stem for path in FOLDER.glob("*.py") if "__main__" in path.read_text())


@pytest.fixture(autouse=True)
def on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)


def test_there_are_benchmarks() -> None:
    assert len(SCRIPTS) >= 9


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_benchmark_imports_what_it_needs_and_says_how_to_use_it(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = FOLDER / f"{name}.py"
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert said.startswith(f"usage: {name}.py")
    assert ("--json" in said) == name.startswith("bench_")


def test_sides_alternate_and_the_ratio_is_the_median_of_the_rounds(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from frame import alternating  # pyright: ignore[reportMissingImports]

    order, ours, theirs = [], iter([2.0, 3.0, 8.0]), iter([1.0, 2.0, 2.0])

    def our_side() -> float:
        order.append("ours")
        return next(ours)

    def their_side() -> float:
        order.append("theirs")
        return next(theirs)

    row = alternating("x, s", our_side, their_side, 3, bound=1.9)
    assert order == ["theirs", "ours", "ours", "theirs", "theirs", "ours"]
    assert (row["ours"], row["reference"], row["ratio"]) == (3.0, 2.0, 2.0)  # 2, 1.5, 4
    assert not row["holds"]
    assert capsys.readouterr().out == "x, s: ratio 1.500 to 4.000 over 3 rounds\n"


@pytest.mark.parametrize(("most", "code"), [(5.0, 0), (4.0, 1)])
def test_a_missed_bound_is_an_exit_status_and_rows_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: float, code: int
) -> None:
    from frame import main, row  # pyright: ignore[reportMissingImports]

    ran = []
    parts = {
        "one": lambda: [row("a, s", 4.5, 2.0, bound=2.25, most=most)],
        "other": lambda: ran.append("other") or [],
    }
    monkeypatch.setattr(sys, "argv", ["x", "--json", str(tmp_path / "r.json"), "--only", "one"])
    assert main("What it is.", parts, "sizes") == code
    (found,) = json.loads((tmp_path / "r.json").read_text())
    assert found["holds"] == (code == 0)
    assert found["bound"] == f"<= 2.250 x and <= {most:g}"
    assert ran == []


def test_the_flops_of_a_step_are_those_of_the_model_that_is_trained() -> None:
    import torch
    from smollm2_steps import SHAPE, step_flops  # pyright: ignore[reportMissingImports]
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**SHAPE))
    matrices = sum(weights.numel() for weights in model.parameters() if weights.ndim == 2)
    pairs = 512 * 512 / 2  # causal; two products of `width` multiply-adds each, thrice
    assert step_flops(3) == 3 * (6 * 512 * matrices + 30 * 12 * 576 * pairs)
