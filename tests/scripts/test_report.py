"""Tables and figures over several runs that the scripts write."""

from pathlib import Path

import pandas as pd

from script_chain import Chain, run_script


def test_plot_study(tmp_path: Path) -> None:
    run = {
        "method": "compression",
        "base": "b",
        "corpus": "c",
        "max_steps": 2,
        "checkpoint_steps": [],
    }
    rows = [("low", "loss_nats", 5.0, 4.9, 5.1), ("compressed", "recovery", 0.4, 0.3, 0.5)]
    table = pd.DataFrame(rows, columns=["arm", "measure", "value", "interval_low", "interval_high"])
    folders = [tmp_path / name / "tables" for name in ("r1", "r2")]
    for folder in folders:
        folder.mkdir(parents=True)
        table.to_csv(folder.parent / "evaluation.csv", index=False)
        pd.DataFrame({"way": ["<b>"]}).to_csv(folder / "cost.csv", index=False)
    run_script(
        "plot_study",
        runs={"r1": run, "r2": run},
        evaluation_paths=[folder.parent / "evaluation.csv" for folder in folders],
        table_folders=folders,
        compared={},
        compared_paths=[],
        study_folder=tmp_path / "study",
    )
    found = {path.name for path in (tmp_path / "study").iterdir()}
    figures = {f"{name}.{kind}" for name in ("arms", "recovery") for kind in ("svg", "pdf")}
    assert found == figures | {"cost.csv", "cost.html"}
    assert pd.read_csv(tmp_path / "study" / "cost.csv")["run"].tolist() == ["r1", "r2"]
    assert "&lt;b&gt;" in (tmp_path / "study" / "cost.html").read_text()


def test_tabulate_results(chain: Chain, tmp_path: Path) -> None:
    summaries = chain.folder / "results" / "ids" / "summary"
    pairs = [(tmp_path / f"{name}.csv", tmp_path / f"{name}.html") for name in ("runs", "ids")]
    run_script(
        "tabulate_results",
        runs=["base", "again"],
        evaluation_paths=[chain.run / "evaluation.csv"] * 2,
        summary_paths=[summaries / "start.csv", summaries / "base.csv"],
        run_paths=pairs[0],
        dimension_paths=pairs[1],
    )
    one = pd.read_csv(chain.run / "evaluation.csv")
    runs = pd.read_csv(pairs[0][0])
    assert runs["run"].tolist() == ["base"] * len(one) + ["again"] * len(one)
    pd.testing.assert_frame_equal(runs.iloc[: len(one), 1:], one)
    ids = pd.read_csv(pairs[1][0])
    assert ids["model"].tolist() == ["start"] * 14 + ["base"] * 14
    page = pairs[1][1].read_text()
    assert page.count("<tr>") == 1 + len(ids)
    assert "<td>1</td>" in page  # a layer is a whole number
    assert "1.0</td>" not in page


def test_tabulate_results_where_nothing_is_selected(tmp_path: Path) -> None:
    pairs = [(tmp_path / f"{name}.csv", tmp_path / f"{name}.html") for name in ("runs", "ids")]
    run_script(
        "tabulate_results",
        runs=[],
        evaluation_paths=[],
        summary_paths=[],
        run_paths=pairs[0],
        dimension_paths=pairs[1],
    )
    assert pairs[0][1].read_text().startswith("<!doctype html>")
    assert pairs[0][0].exists()
