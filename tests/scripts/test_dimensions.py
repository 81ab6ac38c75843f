"""Tables and figures of intrinsic dimensions that the scripts write."""

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from script_chain import Chain, run_script
from script_records import record_of
from terse.activations import cache
from terse.activations.heavy_tokens import COLUMNS
from terse.corpora.documents import fingerprint
from terse.dimension import estimate
from terse.dimension.statistics import summarise
from terse.errors import TerseError
from terse.figures.dimensions import id_by_layer, labelled
from terse.provenance import digest_file
from terse.settings.activations import Estimation


def test_estimate_dimensions(chain: Chain) -> None:
    ids = pd.read_csv(chain.folder / "results" / "ids" / "base.csv")
    with cache.open(chain.folder / "cache" / "activations" / "base") as found:
        expected = estimate(found.activations["block-l1"][:], ["mle_inv"])["mle_inv"]
        n_rows = found.n_rows
    part = ids.query("module == 'block' and layer == 1 and estimator == 'mle_inv'")
    np.testing.assert_allclose(part.sort_values("row")["id"], expected, rtol=1e-9)
    assert len(ids) == n_rows * 7 * 2
    assert set(ids["revision"]) == {"step-6"}
    assert ids["loss_nats"].between(3, 7).all()
    summary = pd.read_csv(chain.folder / "results" / "ids" / "summary" / "base.csv")
    assert len(summary) == 7 * 2
    expected = summarise(ids).assign(cloud="context")
    pd.testing.assert_frame_equal(summary, expected, check_dtype=False)
    record = record_of(chain.folder / "results" / "ids" / "base.run.json")
    assert record["settings"]["save_IDs_list"] == ["mle", "mle_inv"]
    assert record["inputs"]["fingerprint"] == fingerprint(chain.inputs.documents or Path())
    assert record["model"]["revision"] == "step-6"
    assert record["inputs"]["weights"] == digest_file(chain.run / "model")
    assert record["model"]["dtype"] == "float32"
    assert record["device"] == record["model"]["device"] == "cpu"


def test_estimate_dimensions_of_one_cloud(chain: Chain, tmp_path: Path) -> None:
    asked = chain.settings.measure("base").block(Estimation) | {"cloud": "means"}
    names = ("ids", "summary", "windows", "heavy")
    paths = {name: tmp_path / f"{name}.csv" for name in names}
    run_script(
        "estimate_dimensions",
        estimation=asked,
        shards_folder=chain.folder / "cache" / "activations" / "base",
        tokenizer_folder=chain.inputs.tokenizer,
        trust_remote_code=False,
        ids_path=paths["ids"],
        parquet_path=tmp_path / "ids.parquet",
        summary_path=paths["summary"],
        windows_path=paths["windows"],
        heavy_path=paths["heavy"],
        record_path=tmp_path / "record.json",
    )
    ids, summary = pd.read_csv(paths["ids"]), pd.read_csv(paths["summary"])
    assert len(ids) == len(summary) == 7 * 2
    with cache.open(chain.folder / "cache" / "activations" / "base") as found:
        assert set(ids["n_eff"]) == {found.n_rows}
        assert set(summary["n_documents"]) == {len(set(found.rows["document"]))}
        if found.n_rows < 22:
            assert set(ids["flags"]) == {"too_few"}
    assert set(summary["cloud"]) == {"means"}


@pytest.mark.parametrize("figure", ["by-layer", "by-step", "by-window", "against-loss"])
def test_plot_dimensions(chain: Chain, tmp_path: Path, figure: str) -> None:
    ids = chain.folder / "results" / "ids"
    paths = [tmp_path / f"id-{figure}.svg", tmp_path / f"id-{figure}.pdf"]
    run_script(
        "plot_dimensions",
        figure=figure,
        ids_paths=[ids / "start.parquet", ids / "base.parquet"],
        summary_paths=[ids / "summary" / "start.csv", ids / "summary" / "base.csv"],
        curve_paths=[],
        window_paths=[ids / "windows" / "start.csv", ids / "windows" / "base.csv"],
        steps=[0, 6],
        figure_paths=paths,
    )
    assert ElementTree.parse(paths[0]).getroot().tag.endswith("}svg")
    assert paths[1].read_bytes().startswith(b"%PDF-")


def test_plot_dimensions_draws_the_summaries_of_these_models(chain: Chain) -> None:
    folder = chain.folder / "results" / "ids" / "summary"
    tables = [pd.read_csv(folder / f"{name}.csv") for name in ("start", "base")]
    figure = id_by_layer(labelled(tables, [0, 6]))
    lines = [line for line in figure.axes[0].lines if line.get_label() == "6"]
    expected = tables[1].query("module == 'attn' and estimator == 'mle'")["mean_without_sinks"]
    np.testing.assert_allclose(np.asarray(lines[0].get_ydata(), float), expected)


def test_compare_dimensions(chain: Chain, tmp_path: Path) -> None:
    ids = chain.folder / "results" / "ids"
    run_script(
        "compare_dimensions",
        ids_paths=[ids / "start.parquet", ids / "base.parquet"],
        table_path=tmp_path / "differences.csv",
        page_path=tmp_path / "differences.html",
    )
    table = pd.read_csv(tmp_path / "differences.csv")
    assert table["comparison"].value_counts().to_dict() == {"layer": 24, "model": 28}
    late, early = (
        pd.read_csv(ids / f"{name}.csv").query(
            "module == 'block' and layer == 1 and estimator == 'mle'"
        )
        for name in ("base", "start")
    )
    row = table.query(
        "comparison == 'model' and module == 'block' and layer == 1 and estimator == 'mle'"
    ).set_index("sinks")
    for sinks, column in (("with", "id"), ("without", "id_without_sinks")):
        expected = (late[column].to_numpy() - early[column].to_numpy()).mean()
        np.testing.assert_allclose(row.loc[sinks, "mean"], expected)
    assert (tmp_path / "differences.html").read_text().count("<tr>") == 1 + len(table)


def test_a_figure_by_window_without_hidden_states_says_what_to_set(
    chain: Chain, tmp_path: Path
) -> None:
    empty = tmp_path / "windows.csv"
    empty.write_text("theiler_window\n")
    with pytest.raises(TerseError, match="set save_cache_tensors: true"):
        run_script(
            "plot_dimensions", figure="by-window", ids_paths=[], summary_paths=[], curve_paths=[],
            window_paths=[empty], steps=[None], figure_paths=[tmp_path / "a.svg"],
        )  # fmt: skip


def test_tabulate_heavy_tokens(chain: Chain, tmp_path: Path) -> None:
    ids = chain.folder / "results" / "ids" / "heavy-tokens"
    given = pd.read_csv(ids / "base.csv", keep_default_na=False, na_values=[""])
    assert list(given.columns) == COLUMNS
    rows = [
        {"model": "base", "row": row, "position": at, "token_id": 7, "token": "NA", "n_alike": 4,
         "module": "block", "layer": row, "heaviest": 20.0 + row}
        for row, at in ((0, 0), (1, 3), (2, 5))
    ]  # fmt: skip
    pd.DataFrame(rows, columns=pd.Index(COLUMNS)).to_csv(tmp_path / "heavy.csv", index=False)
    run_script(
        "tabulate_heavy_tokens",
        heavy_paths=[tmp_path / "heavy.csv", ids / "start.csv"],
        table_path=tmp_path / "table.csv",
        page_path=tmp_path / "table.html",
    )
    table = pd.read_csv(tmp_path / "table.csv", keep_default_na=False).query("model == 'base'")
    later = table.query("at_start == 'no'").iloc[0]
    assert (later["token"], later["n"], float(later["share"])) == ("NA", 2, 0.5)
    assert (float(later["layer"]), float(later["heaviest"])) == (1.5, 21.5)
    assert "NA" in (tmp_path / "table.html").read_text()
