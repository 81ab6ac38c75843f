"""Chunks against a naive oracle that walks the documents."""

import json
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from terse.corpora.chunks import Chunks, chunk_documents, shuffled
from terse.corpora.token_store import TokenStore
from terse.errors import TerseError


def make(tokens_path: Path, out: Path, **changes) -> Chunks:
    defaults = {"ctx_len": 16, "min_chunks_from_a_document": 1, "max_chunks_from_a_document": 3}
    chunk_documents(tokens_path, out, **{**defaults, **changes})
    return Chunks(out)


def oracle(stores, ctx_len, least, most, gap, limit):
    """Every chunk as (document, number, tokens, first byte, end byte), by walking along."""
    documents = [(store, index) for store in stores for index in range(len(store))]
    for store, index in documents[:limit]:
        tokens = store.document(index).tolist()
        ends = store.byte_ends[store.offsets[index] : store.offsets[index + 1]].tolist()
        if len(tokens) < ctx_len * (least + 1):
            continue
        body = ctx_len - (store.bos_id >= 0)
        rows: list[Any] = []
        place, number = 0, 0
        while number < most and place + body <= len(tokens):
            row = ([store.bos_id] if store.bos_id >= 0 else []) + tokens[place : place + body]
            start = ends[place - 1] if place else 0
            rows.append((store.ids[index], number, row, start, ends[place + body - 1]))
            place += body + gap
            number += 1
        if len(rows) >= least:
            yield from rows


@pytest.fixture(scope="module")
def without_bos(tmp_path_factory, tokens_path) -> Path:
    """The same tokens, of a tokenizer without BOS."""
    path = tmp_path_factory.mktemp("bos") / "t.h5"
    path.write_bytes(tokens_path.read_bytes())
    with h5py.File(path, "a") as file:
        file.attrs["bos_id"] = -1
    return path


@given(
    ctx_len=st.integers(2, 60),
    least=st.integers(0, 3),
    extra=st.integers(0, 4),
    gap=st.integers(0, 80),
    limit=st.none() | st.integers(1, 50),
    split=st.sampled_from(["all", "train", "validation"]),
    bos=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_chunks_equal_the_oracle(
    tmp_path_factory, tokens_path, without_bos, ctx_len, least, extra, gap, limit, split, bos
):
    source = tokens_path if bos else without_bos
    stores = [TokenStore(source, s) for s in ("train", "validation") if split in (s, "all")]
    most = max(1, least) + extra
    expected = list(oracle(stores, ctx_len, least, most, gap, limit))
    out = tmp_path_factory.mktemp("chunks") / "c.h5"
    arguments = {
        "ctx_len": ctx_len,
        "min_chunks_from_a_document": least,
        "max_chunks_from_a_document": most,
        "chunk_gap": gap,
        "max_dataset_size": limit,
        "split": split,
    }
    if not expected:
        with pytest.raises(TerseError, match="no chunks"):
            chunk_documents(source, out, **arguments)
        assert not out.exists()
        return
    chunks = make(source, out, **arguments)
    rows = chunks.rows()
    assert len(chunks) == len(expected)
    assert chunks[:].tolist() == [row for _, _, row, _, _ in expected]
    assert rows["document"].tolist() == [name for name, *_ in expected]
    assert rows["chunk"].tolist() == [number for _, number, *_ in expected]
    assert rows["id"].tolist() == [f"{name}-{number}" for name, number, *_ in expected]
    assert rows["byte_start"].tolist() == [start for *_, start, _ in expected]
    assert rows["byte_end"].tolist() == [end for *_, end in expected]
    assert chunks.bos == bos


def test_byte_offsets_find_the_text_of_a_chunk(tmp_path, tokens_path, tokenizer, texts):
    chunks = make(tokens_path, tmp_path / "c.h5", ctx_len=24, max_chunks_from_a_document=9)
    rows = chunks.rows()
    split_inside = 0
    for index in range(len(chunks)):
        text = texts[json.loads(rows["metadata"][index])["n"]].encode()
        span = text[rows["byte_start"][index] : rows["byte_end"][index]]
        split_inside += b"\xef\xbf\xbd" in span.decode(errors="replace").encode()
        pieces = tokenizer.convert_ids_to_tokens(chunks[index].tolist())
        assert pieces[0] == "<|bos|>"
        assert sum(map(len, pieces[1:])) == len(span)  # a byte-level character is a byte
        assert tokenizer.decode(chunks[index][1:]) == span.decode(errors="replace")
    assert split_inside  # some chunk does begin or end inside a character


def test_attributes_say_how_it_was_made(tmp_path, tokens_path):
    chunks = make(tokens_path, tmp_path / "c.h5", split="train", seed=3)
    store = TokenStore(tokens_path)
    assert (chunks.ctx_len, chunks.bos_id) == (16, 0)
    assert chunks.fingerprint == store.fingerprint
    assert chunks.tokenizer_digest == store.tokenizer_digest
    assert chunks.settings["split"] == "train"
    assert chunks.settings["chunk_gap"] == 50
    time.sleep(1.1)  # a time stamp would differ
    make(tokens_path, tmp_path / "again.h5", split="train", seed=3)
    assert (tmp_path / "again.h5").read_bytes() == (tmp_path / "c.h5").read_bytes()


@pytest.mark.parametrize("how", ["tokens", "blocks"])
def test_shuffling_permutes_within_a_chunk(tmp_path, tokens_path, how):
    plain = make(tokens_path, tmp_path / "a.h5", ctx_len=65)[:]
    mixed = make(tokens_path, tmp_path / "b.h5", ctx_len=65, shuffle=how)[:]
    other = make(tokens_path, tmp_path / "c.h5", ctx_len=65, shuffle=how, seed=1)[:]
    again = make(tokens_path, tmp_path / "d.h5", ctx_len=65, shuffle=how)[:]
    np.testing.assert_array_equal(mixed, again)
    np.testing.assert_array_equal(np.sort(plain, axis=1), np.sort(mixed, axis=1))
    assert (mixed[:, 0] == 0).all()  # BOS stays
    assert (mixed != plain).any()
    assert (mixed != other).any()
    if how == "blocks":  # 16 blocks of 4 tokens, each whole
        for row, source in zip(mixed, plain, strict=True):
            blocks = sorted(map(tuple, row[1:].reshape(16, 4).tolist()))
            assert blocks == sorted(map(tuple, source[1:].reshape(16, 4).tolist()))
    order = np.arange(64, dtype=np.int32)
    assert (shuffled(order, how, 0, "a-0") != shuffled(order, how, 0, "a-1")).any()


def test_a_row_of_a_limited_corpus_is_shuffled_alike(tmp_path, tokens_path):
    everything = make(tokens_path, tmp_path / "a.h5", shuffle="tokens")
    some = make(tokens_path, tmp_path / "b.h5", shuffle="tokens", max_dataset_size=15)
    np.testing.assert_array_equal(everything[: len(some)], some[:])


def test_too_short_documents_are_counted_in_the_error(tmp_path, tokens_path):
    lengths = np.concatenate(
        [np.diff(TokenStore(tokens_path, split).offsets) for split in ("train", "validation")]
    )
    with pytest.raises(TerseError, match=f"all 40 .* 10000 tokens .* longest has {lengths.max()}"):
        make(tokens_path, tmp_path / "c.h5", ctx_len=5000)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ctx_len": 1}, "ctx_len is 1; allowed: 2"),
        ({"chunk_gap": -1}, "chunk_gap is -1; allowed: 0"),
        ({"max_chunks_from_a_document": 0}, "allowed: 1"),
        ({"min_chunks_from_a_document": 4}, "is below"),
        ({"shuffle": "token"}, "did you mean 'tokens'"),
        ({"split": "valid"}, "did you mean 'validation'"),
    ],
)
def test_values_out_of_range_are_errors(tmp_path, tokens_path, changes, message):
    with pytest.raises(TerseError, match=message):
        make(tokens_path, tmp_path / "c.h5", **changes)


@pytest.mark.parametrize("n_shards", [1, 3, 7])
def test_shards_own_each_row_once(tmp_path, tokens_path, n_shards):
    chunks = make(tokens_path, tmp_path / "c.h5")
    owned = [row for s in range(n_shards) for row in range(*chunks.shard(s, n_shards))]
    assert owned == list(range(len(chunks)))
    with pytest.raises(TerseError, match="no shard"):
        chunks.shard(n_shards, n_shards)
