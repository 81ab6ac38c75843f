"""The tables of a study of dimensions show the numbers of its results, and only those it has."""

import runpy
import sys
from pathlib import Path

import pandas as pd
import pytest

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "smollm2_by_layer.py"


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Write what the workflow writes for one kind of token cloud and one of last tokens."""
    (tmp_path / "summary").mkdir()
    (tmp_path / "scale").mkdir()
    layers = [*range(7), None]
    modules = ["block"] * 7 + ["norm"]
    base = pd.DataFrame({"module": modules, "layer": layers})
    of_contexts = base.assign(
        estimator="mle_inv", n=5, mean_without_sinks=[float(i) for i in range(8)],
        standard_error_without_sinks=0.5, mean=99.0, standard_error=9.0,
    )  # fmt: skip
    of_contexts.to_csv(tmp_path / "summary" / "smollm2.csv", index=False)
    curve = base.assign(
        estimator="gride_2", id_without_sinks=3.25, standard_error_without_sinks=0.25,
        id=99.0, standard_error=9.0,
    )  # fmt: skip
    sizes = [curve.assign(n_points=64), curve.assign(n_points=32, id_without_sinks=7.0)]
    pd.concat(sizes).to_csv(tmp_path / "scale" / "smollm2-last-tokens.csv", index=False)
    ids = [
        base.assign(estimator="mle_inv", id_without_sinks=place, loss_nats=-place, document=place)
        for place in range(5)
    ]
    pd.concat(ids).to_csv(tmp_path / "smollm2.csv", index=False)
    return tmp_path


def tables(results: Path, *words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), str(results), *words])
    runpy.run_path(str(SCRIPT), run_name="__main__")


def test_tables_of_what_is_there(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tables(results, monkeypatch=monkeypatch)
    lines = capsys.readouterr().out.splitlines()
    assert "| layer | text (n = 5) | ρ with the loss |" in lines
    assert "| 3 | 3.0 ± 1.0 | -1.00 [-1.00, -1.00] |" in lines
    assert "| norm | 7.0 ± 1.0 | -1.00 [-1.00, -1.00] |" in lines
    assert "| layer | tokens shuffled (n = 64) |" in lines  # the whole cloud, not its halves
    assert "| 0 | 3.2 ± 0.5 |" in lines
    assert not any(line.startswith(("| 1 ", "| 2 ")) for line in lines)
    assert not any("Means" in line for line in lines)


def test_tables_go_between_the_marks_of_the_page(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marks = runpy.run_path(str(SCRIPT))
    page = tmp_path / "page.md"
    page.write_text(f"before\n{marks['BEGIN']}\nold\n{marks['END']}\nafter\n")
    tables(results, "--into", str(page), monkeypatch=monkeypatch)
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    assert "| 6 | 6.0 ± 1.0 |" in text
