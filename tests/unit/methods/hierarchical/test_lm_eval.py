"""The library's own tests of a correct LM on `hier_ae`, and an evaluation without a network."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from terse.corpora.documents import write_documents
from terse.errors import TerseError
from terse.evaluation.lm_eval.corpus_tasks import make_corpus_tasks
from terse.evaluation.lm_eval.harness import run_tasks
from terse.methods.hierarchical.lm_eval import HierarchicalAELM
from terse.methods.hierarchical.storage import save_model
from terse.settings.corpora import Corpus
from terse.settings.harness import Harness
from tiny_asking import ask
from tiny_hierarchical import model

TEXT = "Once there was a text that is longer than one row of thirty-two bytes; it goes on, über."


@pytest.fixture(scope="module")
def lm() -> HierarchicalAELM:
    torch.set_num_threads(1)
    return HierarchicalAELM(model(seed=5), batch_size=4)  # rows of 31 bytes behind BOS


@pytest.mark.parametrize("split", [1, 5, 30, 31, 32, 60])
def test_likelihoods_of_parts_add_up(lm: HierarchicalAELM, split: int) -> None:
    a, b, c = TEXT[:split], TEXT[split : split + 9], TEXT[split + 9 :]
    pairs = [("", TEXT), ("", a), (a, b), (a + b, c), (a, b + c)]
    (whole, _), (first, _), (second, _), (third, _), (rest, _) = ask(lm, "loglikelihood", *pairs)
    assert whole == pytest.approx(first + second + third, rel=1e-5)
    assert rest == pytest.approx(second + third, rel=1e-5)
    assert ask(lm, "loglikelihood_rolling", (TEXT,))[0] == pytest.approx(whole, rel=1e-6)
    assert whole < -len(TEXT)  # a random model is no good one


def test_order_and_batch_size_change_nothing(lm: HierarchicalAELM) -> None:
    pairs = [("a context", " x"), ("", TEXT), (TEXT, " and more"), ("b", "c" * 40), ("", "z")]
    expected = ask(lm, "loglikelihood", *pairs)
    other = HierarchicalAELM(lm.model, batch_size=1)
    for found in (
        ask(lm, "loglikelihood", *pairs[::-1])[::-1],
        ask(other, "loglikelihood", *pairs),
    ):
        for (ours, greedy), (theirs, flag) in zip(found, expected, strict=True):
            assert ours == pytest.approx(theirs, rel=1e-5)
            assert greedy == flag


@pytest.mark.parametrize("context", ["", "The ", TEXT])
def test_a_continuation_is_greedy_if_it_is_what_is_written(
    lm: HierarchicalAELM, context: str
) -> None:
    options = {"until": [], "max_gen_toks": 24}
    written = ask(lm, "generate_until", (context, options))[0]
    assert len(written) > 3
    first, last = ("!" if byte != "!" else "?" for byte in (written[0], written[-1]))
    others = (context, written[:-1] + last), (context, first + written[1:])
    (_, yes), (_, no), (_, neither) = ask(lm, "loglikelihood", (context, written), *others)
    assert yes
    assert not no
    assert not neither


def test_writing_stops_where_it_is_told(lm: HierarchicalAELM) -> None:
    whole = ask(lm, "generate_until", ("The ", {"until": [], "max_gen_toks": 20}))[0]
    stop = whole[6:8]
    assert ask(lm, "generate_until", ("The ", {"until": [stop]}))[0] == whole[: whole.index(stop)]
    with pytest.raises(TerseError, match="generates greedily"):
        ask(lm, "generate_until", ("The ", {"temperature": 0.7}))


def test_the_library_runs_tasks_that_are_made_of_a_corpus(tmp_path: Path, lm: Any) -> None:
    corpus = Corpus(source="python-docs", max_dataset_size=30, validation_fraction=0.5)
    write_documents(corpus, tmp_path / "d.parquet")
    make_corpus_tasks(tmp_path / "d.parquet", tmp_path / "tasks")
    save_model(lm.model, tmp_path)
    loaded = HierarchicalAELM(tmp_path, batch_size=8)
    settings = Harness(corpus="c", limit=6)
    table = run_tasks(loaded, settings, tmp_path / "tasks").set_index(["task", "metric"])
    assert set(table.index) == {
        ("corpus_cloze", "acc"), ("corpus_cloze", "acc_norm"), ("corpus_bytes", "bits_per_byte"),
    }  # fmt: skip
    assert (table["n"] == 6).all()
    texts = pd.read_json(tmp_path / "tasks" / "corpus_bytes.jsonl", lines=True)["text"][:6]
    nats = -sum(ask(lm, "loglikelihood_rolling", *((text,) for text in texts)))
    n_bytes = sum(len(text.encode()) for text in texts)
    expected = nats / n_bytes / torch.tensor(2.0).log().item()
    found = float(table.loc[("corpus_bytes", "bits_per_byte"), "value"])
    assert found == pytest.approx(expected, rel=1e-4)
    with pytest.raises(TerseError, match="corpus_clozes"):
        run_tasks(loaded, Harness(tasks=["corpus_clozes.yaml"]), None)


def test_a_first_stage_has_no_likelihood() -> None:
    with pytest.raises(TerseError, match="a first stage has no likelihood"):
        HierarchicalAELM(model(top=None))
