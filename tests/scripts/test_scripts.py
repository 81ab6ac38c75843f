"""Each script does what its rule promises: the contents of what came out."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoTokenizer

from script_chain import CONFIG, SCRIPTS, Chain, run_script, script
from terse.activations import cache
from terse.config import load
from terse.config.methods import settings_of
from terse.corpora.documents import fingerprint, read_documents
from terse.corpora.stdlib import read_python_docs
from terse.dimension import estimate
from terse.dimension.statistics import summarise
from terse.errors import TerseError
from terse.figures.dimensions import id_by_layer, labelled
from terse.job import weights_of
from terse.machine.signals import Stopped, StopSignal
from terse.models.loading import load_model
from terse.provenance import digest_file
from terse.settings.activations import Estimation
from terse.training.method import Inputs
from terse.training.train import Conduct, Outputs

Train = Callable[..., bytes]
NAMES = sorted(path.stem for path in SCRIPTS.glob("*.py"))


def record_of(path: Path) -> dict[str, Any]:
    found = json.loads(path.read_text())
    assert found["versions"]["torch"] == torch.__version__
    assert found.keys() >= {"settings", "seed", "git", "device", "inputs"}
    return found


@pytest.mark.parametrize("name", NAMES)
def test_a_script_is_imported_without_doing_its_job(name: str) -> None:
    module = script(name)
    assert module.__doc__
    assert len((SCRIPTS / f"{name}.py").read_text().splitlines()) <= 80
    if name != "download_model":  # one call of one function
        assert callable(getattr(module, name))


def test_each_script_has_a_rule_of_its_name() -> None:
    rules = "".join(path.read_text() for path in SCRIPTS.parents[1].glob("rules/*.smk"))
    for name in NAMES:
        assert f"rule {name}:" in rules
        assert f'"../workflow/scripts/{name}.py"' in rules


def test_collect_corpus(chain: Chain) -> None:
    assert chain.inputs.documents is not None
    rows = [row for rows in read_documents(chain.inputs.documents) for row in rows]
    pages = [page for page, _ in zip(read_python_docs(), range(60), strict=False)]
    assert [row["id"] for row in rows] == [page.id for page in pages if page.text.strip()]
    assert rows[0]["text"] == pages[0].text
    assert 5 < sum(row["split"] == "validation" for row in rows) < 35
    record = record_of(chain.inputs.documents.with_name("docs.run.json"))
    assert record["fingerprint"] == fingerprint(chain.inputs.documents)
    assert sum(record["n_documents"].values()) == len(rows)
    assert record["settings"]["max_dataset_size"] == 60


def test_train_tokenizer(chain: Chain) -> None:
    assert chain.inputs.tokenizer is not None
    assert chain.inputs.documents is not None
    tokenizer = AutoTokenizer.from_pretrained(chain.inputs.tokenizer)
    assert len(tokenizer) == 300
    text = "def naïve(): return '東京 🙂'\n"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    record = record_of(chain.inputs.tokenizer / "run.json")
    assert record["inputs"] == {"documents": digest_file(chain.inputs.documents)}
    assert record["settings"]["vocab_size"] == 300


def test_tokenize_corpus(chain: Chain) -> None:
    assert chain.inputs.tokens is not None
    assert chain.inputs.documents is not None
    tokenizer = AutoTokenizer.from_pretrained(chain.inputs.tokenizer)
    for split in ("train", "validation"):
        rows = [r for rows in read_documents(chain.inputs.documents, split) for r in rows]
        with h5py.File(chain.inputs.tokens) as file:
            offsets, tokens = file[split]["offsets"][:], file[split]["tokens"][:]
        assert len(offsets) == len(rows) + 1
        for i in (0, len(rows) - 1):
            found = tokens[offsets[i] : offsets[i + 1]]
            assert tokenizer.decode(found) == rows[i]["text"]


def test_chunk_corpus(chain: Chain) -> None:
    with (
        h5py.File(chain.folder / "cache" / "chunks" / "base.h5") as chunks,
        h5py.File(chain.inputs.tokens or "") as tokens,
    ):
        found = chunks["tokens"][:]
        documents = [name.decode() for name in chunks["rows"]["document"][:]]
        bos, all_ids = int(chunks.attrs["bos_id"]), tokens["train"]["id"][:]
        first = tokens["train"]["tokens"][: tokens["train"]["offsets"][1]]
        starts = chunks["rows"]["byte_start"][:]
    assert found.shape[1] == 48
    assert (found[:, 0] == bos).all()
    assert set(documents) <= {name.decode() for name in all_ids[:12]}
    assert max(documents.count(name) for name in documents) == 2
    if documents[0] == all_ids[0].decode():
        np.testing.assert_array_equal(found[0, 1:], first[:47])
    assert starts[0] == 0


def test_chunk_corpus_takes_every_key_of_its_block(chain: Chain) -> None:
    from terse.settings.activations import Chunking

    changes = {"documents": "validation", "shuffle": "blocks", "chunk_seed": 3, "ctx_len": 40}
    asked = load({**CONFIG, "activations": CONFIG["activations"] | changes}).measure("base")
    path = chain.folder / "other.h5"
    run_script(
        "chunk_corpus",
        chunking=asked.block(Chunking),
        tokens_path=chain.inputs.tokens,
        chunks_path=path,
    )
    with h5py.File(path) as chunks, h5py.File(chain.inputs.tokens or "") as tokens:
        ids = {name.decode() for name in tokens["validation"]["id"][:]}
        assert {name.decode() for name in chunks["rows"]["document"][:]} <= ids
        about = json.loads(chunks.attrs["settings"])
        assert chunks["tokens"].shape[1] == 40
    assert (about["shuffle"], about["seed"], about["split"]) == ("blocks", 3, "validation")


def test_train_model(chain: Chain) -> None:
    history = pd.read_csv(chain.run / "history.csv")
    assert history.loc[history["split"] == "train", "step"].tolist() == [2, 4, 6]
    validation = history[history["split"] == "validation"]
    assert validation["step"].tolist() == [0, 3, 6]
    assert validation["loss_nats"].iloc[0] == pytest.approx(math.log(300), rel=0.05)
    assert validation["loss_nats"].is_monotonic_decreasing
    kept = sorted(path.name for path in (chain.run / "checkpoints").iterdir())
    assert kept == ["step-0", "step-3"]
    weights = [
        load_model(folder).get_input_embeddings().weight
        for folder in (*sorted((chain.run / "checkpoints").iterdir()), chain.run / "model")
    ]
    assert not torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[1], weights[2])
    assert len(AutoTokenizer.from_pretrained(chain.run / "model")) == 300
    assert not list(chain.run.rglob("*.bin"))
    assert not list(chain.run.rglob("terse-files.json"))
    assert not list((chain.folder / "state" / "train" / "base").iterdir())
    record = record_of(chain.run / "run.json")
    assert record["settings"] == chain.settings.runs["base"].params()
    assert record["device"] == "cpu (deterministic)"
    assert record["seed"] == 0
    assert record["inputs"] == {
        "tokens": digest_file(chain.inputs.tokens or Path()),
        "tokenizer": digest_file(chain.inputs.tokenizer or Path()),
    }


@pytest.fixture
def train_again(chain: Chain, tmp_path: Path) -> Train:
    """Return a function that trains the run into another folder, with some settings changed."""

    def train(signal: StopSignal | None = None, **changes: Any) -> bytes:
        run_script(
            "train_model",
            run=chain.settings.runs["base"].params() | changes,
            inputs=Inputs(chain.inputs.tokens, tokenizer=chain.inputs.tokenizer),
            outputs=Outputs(
                tmp_path / "model",
                tmp_path / "kept",
                tmp_path / "history.csv",
                tmp_path / "run.json",
            ),
            state_root=tmp_path / "state",
            conduct=Conduct(name="base", results=tmp_path),
            signal=signal or StopSignal(),
        )
        return (tmp_path / "model" / "model.safetensors").read_bytes()

    return train


def test_other_settings_do_not_go_on_from_a_state(
    chain: Chain, train_again: Train, tmp_path: Path
) -> None:
    with pytest.raises(Stopped, match="stopped by SIGTERM at step 1 of 6"):
        train_again(StopSignal("SIGTERM"))
    assert not (tmp_path / "model").exists()
    with pytest.raises(Stopped, match="at step 1 of 6"):
        train_again(StopSignal("SIGTERM"), lr=5e-3)
    assert len(list((tmp_path / "state" / "base").iterdir())) == 2
    assert train_again() == (chain.run / "model" / "model.safetensors").read_bytes()


def test_evaluate_run(chain: Chain) -> None:
    table = pd.read_csv(chain.run / "evaluation.csv").set_index(["arm", "measure"])
    assert list(table.columns) == [
        "value", "interval_low", "interval_high", "n", "targets", "flag",
    ]  # fmt: skip
    assert set(table["targets"]) == {"all validation documents of docs"}
    bits, loss = (table.loc[("model", m)] for m in ("bits_per_byte", "loss_nats"))
    assert bits["interval_low"] < bits["value"] < bits["interval_high"]
    assert 4.5 < loss["value"] < math.log(300)
    assert table.loc[("uniform", "bits_per_byte"), "value"] == 8
    xz, primed = (table.loc[(arm, "bits_per_byte"), "value"] for arm in ("xz", "xz_primed"))
    assert primed < xz < 8
    with h5py.File(chain.inputs.tokens or "") as file:
        per_token = file["validation"]["n_bytes"][:].sum() / len(file["validation"]["tokens"])
        assert table["n"].eq(len(file["validation"]["id"])).all()
    assert bits["value"] == pytest.approx(loss["value"] / math.log(2) / per_token, rel=1e-6)
    positions, flops = (
        table.loc[("model", f"{m}_per_byte"), "value"] for m in ("positions", "flops")
    )
    assert 1 / per_token < positions < 2.2 / per_token  # half a window is read twice
    assert flops > positions * 2 * 2 * (4 * 16 + 3 * 44) * 16  # the blocks' weights alone


def test_cache_activations_reads_the_weights_of_the_step_that_it_is_asked_for(
    chain: Chain,
) -> None:
    folders = {"start": chain.run / "checkpoints" / "step-0", "base": chain.run / "model"}
    for name, folder in folders.items():
        model = load_model(folder)
        with cache.open(chain.folder / "cache" / "activations" / name) as found:
            tokens = torch.from_numpy(found.tokens[:].astype(np.int64))
            with torch.no_grad():
                states = model(tokens, output_hidden_states=True).hidden_states
            np.testing.assert_allclose(found.activations["block-l0"][:], states[1], atol=1e-5)
            np.testing.assert_allclose(found.activations["norm"][:], states[-1], atol=1e-5)
            about = found.attributes
        assert (about["model"], about["origin"], about["corpus"]) == (name, "base", "docs")
        assert about["revision"] == {"start": "step-0", "base": "step-6"}[name]


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


def test_plot_study(tmp_path: Path) -> None:
    run = settings_of(
        {
            "method": "compression",
            "base": "b",
            "corpus": "c",
            "max_steps": 2,
            "checkpoint_steps": [],
        }
    ).params()
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


def test_plot_run(chain: Chain, tmp_path: Path) -> None:
    paths = [tmp_path / "loss.svg", tmp_path / "loss.pdf"]
    run_script("plot_run", history_path=chain.run / "history.csv", figure_paths=paths)
    assert ElementTree.parse(paths[0]).getroot().tag.endswith("}svg")
    assert paths[1].read_bytes().startswith(b"%PDF-")


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


def test_a_shard_of_a_step_that_was_not_kept_is_refused(chain: Chain, tmp_path: Path) -> None:
    asked = chain.settings.measure("start")
    with pytest.raises(TerseError, match=r"no model in .*step-5: the folder does not exist"):
        run_script(
            "cache_activations",
            name="start",
            model=chain.settings.loading_of_model("start"),
            capture=asked.capture(),
            model_folder=weights_of(chain.run / "checkpoints", 5),
            chunks_path=chain.folder / "cache" / "chunks" / "start.h5",
            shard_path=tmp_path / "shard-00000.h5",
            shard=0,
            n_shards=1,
            state_root=tmp_path / "state",
            device="cpu",
        )
