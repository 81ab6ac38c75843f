"""Tables and figures of intrinsic dimensions that the scripts write."""

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from script_chain import Chain, run_script
from script_records import record_of
from terse.activations import cache
from terse.corpora.documents import fingerprint
from terse.dimension import estimate
from terse.dimension.statistics import summarise
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
    paths = {name: tmp_path / f"{name}.csv" for name in ("ids", "summary")}
    run_script(
        "estimate_dimensions",
        estimation=asked,
        shards_folder=chain.folder / "cache" / "activations" / "base",
        ids_path=paths["ids"],
        summary_path=paths["summary"],
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


@pytest.mark.parametrize("figure", ["by-layer", "by-step", "against-loss"])
def test_plot_dimensions(chain: Chain, tmp_path: Path, figure: str) -> None:
    ids = chain.folder / "results" / "ids"
    paths = [tmp_path / f"id-{figure}.svg", tmp_path / f"id-{figure}.pdf"]
    run_script(
        "plot_dimensions",
        figure=figure,
        ids_paths=[ids / "start.csv", ids / "base.csv"],
        summary_paths=[ids / "summary" / "start.csv", ids / "summary" / "base.csv"],
        curve_paths=[],
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
    expected = tables[1].query("module == 'attn' and estimator == 'mle'")["mean"]
    np.testing.assert_allclose(np.asarray(lines[0].get_ydata(), float), expected)


def test_compare_dimensions(chain: Chain, tmp_path: Path) -> None:
    ids = chain.folder / "results" / "ids"
    run_script(
        "compare_dimensions",
        ids_paths=[ids / "start.csv", ids / "base.csv"],
        table_path=tmp_path / "differences.csv",
        page_path=tmp_path / "differences.html",
    )
    table = pd.read_csv(tmp_path / "differences.csv")
    assert table["comparison"].value_counts().to_dict() == {"layer": 2 * 3 * 2, "model": 7 * 2}
    late, early = (
        pd.read_csv(ids / f"{name}.csv").query(
            "module == 'block' and layer == 1 and estimator == 'mle'"
        )
        for name in ("base", "start")
    )
    expected = (late["id"].to_numpy() - early["id"].to_numpy()).mean()
    row = table.query(
        "comparison == 'model' and module == 'block' and layer == 1 and estimator == 'mle'"
    )
    np.testing.assert_allclose(row["mean"], expected)
    assert (tmp_path / "differences.html").read_text().count("<tr>") == 1 + len(table)
