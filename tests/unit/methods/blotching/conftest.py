"""Text with steps and scored runs, made once for the tests of this folder."""

import pandas as pd
import pytest

from terse.corpora.documents import write_documents
from terse.corpora.tokenizers import load_tokenizer, train_bpe
from terse.corpora.tokens import tokenize_documents
from terse.figures.study import FinishedRun
from terse.settings.corpora import Corpus
from terse.training.method import Inputs
from tiny_blotching import blotching, built


@pytest.fixture(scope="session")
def runs() -> list[FinishedRun]:
    """Two arms, untrained, scored and tabulated."""
    finished = []
    for name, changes in (
        ("a", {}), ("b", {"seed": 1}), ("c", {"blotch_p": 0.0}), ("d", {"label_smoothing": 0.1}),
        ("e", {"blotch_p": 0.4}),
    ):  # fmt: skip
        method = blotching(**changes, max_num=15, max_ents=2, n_val_problems=6, n_layers=1)
        model = built(method)
        evaluation = pd.DataFrame([vars(m) for m in method.evaluate(model, "cpu")])
        tables = method.tables(model, "cpu")
        finished.append(FinishedRun(name, method.settings, evaluation, tables))
    return finished


@pytest.fixture(scope="session")
def text_inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """Sentences of 25 pages of Python's documentation, and a tokenizer."""
    folder = tmp_path_factory.mktemp("text")
    corpus = Corpus(
        source="python-docs", max_dataset_size=25, validation_fraction=0.3,
        separator_pattern=r"[.:]\s+",
    )  # fmt: skip
    write_documents(corpus, folder / "d.parquet")
    train_bpe(folder / "d.parquet", vocab_size=300, seed=0, folder=folder / "t")
    tokenize_documents(folder / "d.parquet", load_tokenizer(folder / "t"), folder / "tokens.h5")
    return Inputs(tokens=folder / "tokens.h5", tokenizer=folder / "t")
