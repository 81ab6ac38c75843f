"""corpus_cloze tells a model that knows something from one that only has a tokenizer."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from terse.corpora.documents import SCHEMA, split_texts, write_documents
from terse.errors import TerseError
from terse.evaluation.lm_eval.corpus_tasks import CONTEXT, PASSAGE, make_corpus_tasks
from terse.settings.corpora import Corpus

SEEDS = range(3)


def write_texts(path: Path, texts: list[str]) -> Path:
    """Write texts as validation documents."""
    rows = [
        {"id": str(i), "text": t, "n_bytes": len(t), "split": "validation", "metadata": "{}"}
        for i, t in enumerate(texts)
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path)
    return path


def unspaced(n: int, seed: int = 0) -> list[str]:
    """Return texts without a space, of words of two to four letters out of many."""
    draw = np.random.default_rng(seed)
    letters = [chr(0x4E00 + i) for i in range(300)]
    words = ["".join(draw.choice(letters, draw.integers(2, 5))) for _ in range(150)]
    return ["".join(draw.choice(words, 400)) for _ in range(n)]


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("documents")
    corpus = Corpus(source="python-docs", max_dataset_size=80, validation_fraction=0.5)
    write_documents(corpus, folder / "spaced.parquet")
    return {
        "spaced": folder / "spaced.parquet",
        "unspaced": write_texts(folder / "unspaced.parquet", unspaced(40)),
    }


@pytest.fixture(scope="module")
def asked(
    documents: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[dict[str, Any]]]:
    """Return the questions of all seeds."""
    folder = tmp_path_factory.mktemp("tasks")
    return {
        script: [row for seed in SEEDS for row in questions(path, folder / script, seed)]
        for script, path in documents.items()
    }


def questions(documents: Path, folder: Path, seed: int = 0) -> list[dict[str, Any]]:
    make_corpus_tasks(documents, folder / str(seed), seed=seed)
    lines = (folder / str(seed) / "corpus_cloze.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def counts_of(kind: str, texts: list[str]) -> Callable[[list[str]], list[int]]:
    """Return what counts the tokens of texts, for a kind of tokenizer trained on texts."""
    if kind == "bytes":
        return lambda asked: [len(text.encode()) for text in asked]
    unigram = kind == "unigram"
    tokenizer = Tokenizer(models.Unigram() if unigram else models.BPE())
    tokenizer.pre_tokenizer = {
        "byte-bpe": pre_tokenizers.ByteLevel(add_prefix_space=False),
        "bpe-over-spaces": pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        "unigram": pre_tokenizers.Metaspace(),
    }[kind]
    options: dict[str, Any] = {"vocab_size": 1500, "show_progress": False}
    if unigram:
        trainer = trainers.UnigramTrainer(unk_token="?", special_tokens=["?"], **options)
    else:
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(initial_alphabet=alphabet, **options)
    parts = [text[i : i + 300] for text in texts for i in range(0, min(len(text), 4000), 300)]
    tokenizer.train_from_iterator(parts, trainer)
    return lambda asked: [len(found) for found in tokenizer.encode_batch(asked)]


@pytest.mark.parametrize("kind", ["bytes", "byte-bpe", "bpe-over-spaces", "unigram"])
@pytest.mark.parametrize("script", ["spaced", "unspaced"])
def test_a_model_that_knows_nothing_guesses(
    documents: dict[str, Path], asked: dict[str, list[dict[str, Any]]], script: str, kind: str
) -> None:
    """Every token costs a uniform model the same: it takes the choice of the fewest tokens."""
    count = counts_of(kind, split_texts(documents[script], "validation"))
    hits = []
    for row in asked[script]:
        costs = np.array(count([row["context"] + choice for choice in row["choices"]]))
        best = np.flatnonzero(costs == costs.min())
        hits.append((row["answer"] in best) / len(best))
    error = np.std(hits) / len(hits) ** 0.5
    assert np.mean(hits) == pytest.approx(0.25, abs=3.5 * error + 1e-9)


def test_contexts_and_choices_are_whole(
    documents: dict[str, Path], asked: dict[str, list[dict[str, Any]]]
) -> None:
    texts = split_texts(documents["spaced"], "validation")
    for row in asked["spaced"][:200]:
        passages = [choice[1:] for choice in row["choices"]]
        assert {len(row["context"])} | {*map(len, passages)} == {CONTEXT, PASSAGE}
        assert all(choice[0] == "\n" for choice in row["choices"])
        assert all(passage[0].isalnum() or passage[0] == "_" for passage in passages)
        assert not row["context"][-1].isspace()
        right = passages[row["answer"]]
        assert any(
            right in text and row["context"] in text
            and text[text.index(row["context"]) + CONTEXT :].lstrip().startswith(right)
            for text in texts
        )  # fmt: skip


def test_documents_that_cannot_be_cut_are_no_questions(tmp_path: Path) -> None:
    documents = write_texts(tmp_path / "d.parquet", ["-" * 400] * 5 + ["a b " * 100] * 3)
    with pytest.raises(TerseError, match="has 3 validation documents"):
        make_corpus_tasks(documents, tmp_path / "tasks")
