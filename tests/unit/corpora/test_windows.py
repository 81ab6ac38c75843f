"""Rows and windows against naive oracles; every token is used."""

import pickle

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast

from terse.corpora.token_store import TokenStore
from terse.corpora.tokens import tokenize_documents
from terse.corpora.windows import packed_rows, scoring_windows
from terse.errors import TerseError

BOS, PAD = 0, 2


@given(ctx_len=st.integers(8, 400), split=st.sampled_from(["train", "validation"]))
@example(ctx_len=2, split="validation")
@settings(max_examples=12, deadline=None)
def test_rows_joined_are_the_stream(tokens_path, ctx_len, split):
    store = TokenStore(tokens_path, split)
    stream = [t for d in range(len(store)) for t in [BOS, *store.document(d).tolist()]]
    rows = packed_rows(tokens_path, split, ctx_len, BOS, PAD)
    joined = torch.cat([rows[i]["input_ids"] for i in range(len(rows))])
    labels = torch.cat([rows[i]["labels"] for i in range(len(rows))])
    n = len(stream)
    assert joined[:n].tolist() == labels[:n].tolist() == stream
    assert joined.shape == (len(rows) * ctx_len,)
    assert len(joined) - n < ctx_len
    assert (joined[n:] == PAD).all()
    assert (labels[n:] == -100).all()


def test_rows_without_bos_are_the_documents(tokens_path):
    rows = packed_rows(tokens_path, "train", 50, -1)
    joined = torch.cat([row["labels"] for row in rows])
    kept = joined[joined != -100]
    np.testing.assert_array_equal(kept, TokenStore(tokens_path).tokens[:])


def test_rows_can_be_read_by_workers_after_the_parent_has_read(tokens_path):
    rows = packed_rows(tokens_path, "train", 64, BOS)
    expected = torch.stack([row["input_ids"] for row in rows])
    loader = DataLoader(rows, batch_size=4, num_workers=1, multiprocessing_context="fork")
    assert torch.equal(torch.cat([batch["input_ids"] for batch in loader]), expected)
    sent = pickle.loads(pickle.dumps(rows))  # what a spawned worker is given
    assert torch.equal(torch.stack([row["input_ids"] for row in sent]), expected)


@given(ctx_len=st.integers(5, 300), share=st.floats(0.2, 1))
@example(ctx_len=2, share=1)
@example(ctx_len=12, share=0)
@settings(max_examples=15, deadline=None)
def test_every_token_is_a_target_once_with_enough_context(tokens_path, ctx_len, share):
    stride = 1 + round(share * (ctx_len - 2))
    store = TokenStore(tokens_path, "validation")
    documents = [store.document(d).tolist() for d in range(len(store))]
    windows = scoring_windows(tokens_path, "validation", ctx_len, BOS, stride, PAD)
    scored = {d: [] for d in range(len(store))}
    n_bytes = np.zeros(len(store), dtype=int)
    for window in windows:
        document = documents[window["document"]]
        inputs, labels = window["input_ids"].tolist(), window["labels"].tolist()
        n = int(window["attention_mask"].sum())
        assert window["attention_mask"].tolist() == [1] * n + [0] * (ctx_len - n)
        assert inputs[0] == BOS
        assert inputs[n:] == [PAD] * (ctx_len - n)
        targets = [place for place, label in enumerate(labels) if label != -100]
        assert targets == list(range(targets[0], n))  # after the context, up to the end
        done = len(scored[window["document"]])
        n_context = targets[0] - 1
        assert n_context == (0 if done == 0 else ctx_len - 1 - stride)
        assert inputs[1:n] == document[done - n_context : done - n_context + n - 1]
        scored[window["document"]] += [labels[place] for place in targets]
        n_bytes[window["document"]] += window["target_bytes"]
    assert [scored[d] for d in range(len(store))] == documents
    np.testing.assert_array_equal(n_bytes, store.n_bytes)


def test_bytes_that_no_token_covers_are_counted(tmp_path, documents_path):
    """A tokenizer that drops white space must not be paid less for the same text."""
    core = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    words = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="[UNK]")
    tokenize_documents(documents_path, words, tmp_path / "t.h5")
    store = TokenStore(tmp_path / "t.h5")
    ends = [store.byte_ends[stop - 1] for stop in store.offsets[1:]]
    assert (ends < store.n_bytes).any()  # the last line feed is in no token
    windows = scoring_windows(tmp_path / "t.h5", "train", 16, BOS)
    assert sum(window["target_bytes"] for window in windows) == store.n_bytes.sum()


def test_windows_collate(tokens_path):
    batch = next(iter(DataLoader(scoring_windows(tokens_path, "train", 32, BOS), batch_size=5)))
    assert {key: tuple(value.shape) for key, value in batch.items()} == {
        "input_ids": (5, 32),
        "labels": (5, 32),
        "attention_mask": (5, 32),
        "document": (5,),
        "target_bytes": (5,),
    }


def test_ranges_are_checked(tokens_path):
    with pytest.raises(TerseError, match="stride is 32; allowed: 1 to ctx_len - 1 = 31"):
        scoring_windows(tokens_path, "train", 32, BOS, 32)
    with pytest.raises(TerseError, match="no context without a BOS"):
        scoring_windows(tokens_path, "train", 32, -1)
    with pytest.raises(TerseError, match="ctx_len is 1"):
        packed_rows(tokens_path, "train", 1, BOS)
    for dataset in (
        packed_rows(tokens_path, "train", 32, BOS),
        scoring_windows(tokens_path, "train", 32, BOS),
    ):
        with pytest.raises(IndexError):
            dataset[len(dataset)]
        assert torch.equal(dataset[-1]["labels"], dataset[len(dataset) - 1]["labels"])
