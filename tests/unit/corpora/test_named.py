"""The table of well-known corpora."""

import subprocess
import sys

import pytest

from terse.corpora.named import NAMED
from terse.settings.corpora import Corpus


@pytest.mark.parametrize("name", NAMED)
def test_each_is_a_valid_corpus_of_the_config(name):
    corpus = Corpus(**NAMED[name])
    assert corpus.source == "python-docs" or corpus.path


def test_what_was_asked_for_is_there():
    for name in ("openwebtext", "pile", "dolma-sample", "wikitext-103", "glue-sst2"):
        assert name in NAMED
    for name in ("tinystories", "fineweb-edu", "pile-github", "python-docs"):
        assert name in NAMED


def test_the_table_needs_nothing_heavy():
    code = (
        "import sys, terse.corpora.named;"
        "print([m for m in ('torch', 'numpy', 'pandas', 'h5py', 'datasets') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
