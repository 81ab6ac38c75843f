"""Chains of reasoning steps from problems and from text."""

import json
from pathlib import Path

import numpy as np
import pytest

from terse.corpora.documents import write_documents
from terse.corpora.token_store import TokenStore
from terse.corpora.tokenizers import load_tokenizer
from terse.corpora.tokens import tokenize_documents
from terse.errors import TerseError
from terse.methods.blotching.chains import text_chains
from terse.settings.corpora import Corpus
from terse.training.method import Inputs
from tiny_blotching import TEXT, blotching


def test_windows_are_whole_sentences(text_inputs: Inputs) -> None:
    tokenizer = load_tokenizer(text_inputs.tokenizer)
    chains = text_chains(text_inputs.tokens, "train", 120, tokenizer.eos_token_id)
    assert len(chains) > 20
    for chain in chains:
        assert len(chain.tokens) <= 120
        assert chain.tokens[-1] == tokenizer.eos_token_id
        assert chain.n_droppable >= 0
        pieces = [
            tokenizer.decode(chain.tokens[:-1][chain.steps[:-1] == i])
            for i in range(chain.n_droppable + 1)
        ]
        assert all(piece.rstrip().endswith((".", ":")) for piece in pieces)
    assert any(chain.n_droppable > 2 for chain in chains)
    store = TokenStore(text_inputs.tokens, "train")
    whole = [f" {' '.join(map(str, store.document(i)))} " for i in range(len(store))]
    short = text_chains(text_inputs.tokens, "train", 40, tokenizer.eos_token_id)
    for chain in (*short, *chains):
        window = f" {' '.join(map(str, chain.tokens[:-1]))} "
        assert any(window in document for document in whole)
    with pytest.raises(TerseError, match="no two neighbouring steps within 3 tokens"):
        text_chains(text_inputs.tokens, "train", 3, 1)


def test_a_token_belongs_to_the_step_in_which_it_ends(text_inputs: Inputs) -> None:
    store = TokenStore(text_inputs.tokens, "train")
    expected = []
    for document in range(len(store)):
        borders = np.array(json.loads(store.metadata_of(document))["step_ends"][:-1])
        ends = store.byte_ends[store.offsets[document] : store.offsets[document + 1]]
        steps = np.unique((borders < ends[:, None]).sum(1), return_inverse=True)[1]
        if steps[-1] > 0:
            expected.append([*steps, steps[-1]])  # EOS is the answer's
    found = text_chains(text_inputs.tokens, "train", 10**6, 1)
    assert [chain.steps.tolist() for chain in found] == expected


def test_a_corpus_without_steps_is_refused(text_inputs: Inputs, tmp_path: Path) -> None:
    plain = Corpus(source="python-docs", max_dataset_size=3, validation_fraction=0.0)
    write_documents(plain, tmp_path / "d.parquet")
    tokenizer = load_tokenizer(text_inputs.tokenizer)
    tokenize_documents(tmp_path / "d.parquet", tokenizer, tmp_path / "tokens.h5")
    with pytest.raises(TerseError, match="has no steps: give it a separator"):
        text_chains(tmp_path / "tokens.h5", "train", 100, 1)


def test_numbers_out_of_distribution_are_above_factors_too() -> None:
    products = {"max_ents": 2, "p_mult": 1.0, "max_num": 3, "max_mult_num": 20}
    ood = blotching(**products).arithmetic.problems.ood
    largest = [max(factors) for (factors,) in ood]
    assert all(20 < number <= 41 for number in largest)
    assert len(set(largest)) > 3


def test_over_long_chains_are_an_error() -> None:
    with pytest.raises(TerseError, match=r"the longest chain has \d+ tokens, seq_len allows 20"):
        blotching(seq_len=20).training_rows()
    arithmetic = blotching(max_num=9, max_ents=2).arithmetic
    within, ood = (
        max(len(chain.tokens) for chain in chains)
        for chains in ((*arithmetic.train, *arithmetic.validation), arithmetic.ood)
    )
    assert arithmetic.longest == ood > within
    with pytest.raises(TerseError, match="max_posencs is 30"):
        blotching(posenc_type="SinPositionalEncoding", max_posencs=30).build()


def test_an_epoch_has_every_chain_once(text_inputs: Inputs) -> None:
    changes = {**TEXT, "seq_len": 60, "max_steps": None, "epochs": 1}
    method = blotching(text_inputs, **changes)
    assert method.rows_of_epoch() == len(text_chains(text_inputs.tokens, "train", 60, 1))
