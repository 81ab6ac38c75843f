"""The documents file: order, split, fingerprint, atomicity."""

import hashlib
import json

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from terse.corpora import documents as module
from terse.corpora.document import Document
from terse.corpora.documents import (
    document_row,
    fingerprint,
    read_documents,
    split_of,
    write_documents,
)
from terse.errors import TerseError
from terse.machine import progress


def write_jsonl(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def test_rows_are_the_documents_in_order(documents_path, texts):
    rows = pq.read_table(documents_path).to_pylist()
    assert [row["text"] for row in rows] == texts
    assert [row["n_bytes"] for row in rows] == [len(text.encode()) for text in texts]
    assert [json.loads(row["metadata"]) for row in rows] == [{"n": i} for i in range(len(texts))]
    assert len({row["id"] for row in rows}) == len(rows)
    assert {row["split"] for row in rows} == {"train", "validation"}


def test_summary_and_fingerprint_are_those_of_the_file(tmp_path, settings_of, texts):
    write_jsonl(tmp_path / "a.jsonl", [{"text": text} for text in texts])
    settings = settings_of("jsonl", path=str(tmp_path / "a.jsonl"))
    summary = write_documents(settings, tmp_path / "d.parquet")
    rows = pq.read_table(tmp_path / "d.parquet").to_pylist()
    digest = hashlib.sha256()
    for row in rows:
        for part in (row["id"].encode(), row["text"].encode()):
            digest.update(len(part).to_bytes(8, "big"))
            digest.update(part)
    assert summary["fingerprint"] == fingerprint(tmp_path / "d.parquet") == digest.hexdigest()
    for split in ("train", "validation"):
        sizes = [len(row["text"].encode()) for row in rows if row["split"] == split]
        assert summary["n_documents"][split] == len(sizes)
        assert summary["n_bytes"][split] == sum(sizes)
    first = (tmp_path / "d.parquet").read_bytes()
    write_documents(settings, tmp_path / "d.parquet")
    assert (tmp_path / "d.parquet").read_bytes() == first


def test_order_of_texts_enters_the_fingerprint(tmp_path, settings_of):
    prints = []
    for texts in (["ab", "c"], ["a", "bc"], ["c", "ab"]):
        write_jsonl(tmp_path / "a.jsonl", [{"text": text} for text in texts])
        settings = settings_of("jsonl", path=str(tmp_path))
        prints.append(write_documents(settings, tmp_path / "out.parquet")["fingerprint"])
    assert len(set(prints)) == 3


def test_equal_texts_fall_in_the_same_split(tmp_path, settings_of):
    records = [{"text": f"text {i % 50}"} for i in range(400)]
    write_jsonl(tmp_path / "a.jsonl", records)
    path = tmp_path / "out.parquet"
    write_documents(settings_of("jsonl", path=str(tmp_path)), path)
    of_text = {}
    for row in pq.read_table(path).to_pylist():
        assert of_text.setdefault(row["text"], row["split"]) == row["split"]
    assert set(of_text.values()) == {"train", "validation"}


def test_split_has_the_share_that_was_asked_for_and_depends_on_the_seed():
    texts = [str(i).encode() for i in range(5000)]
    for fraction in (0.0, 0.1, 0.5):
        held_out = sum(split_of(text, 0, fraction) == "validation" for text in texts)
        assert abs(held_out / 5000 - fraction) < 0.03
    assert [split_of(t, 0, 0.5) for t in texts[:64]] != [split_of(t, 1, 0.5) for t in texts[:64]]


@given(st.text(st.characters(codec=None), min_size=1))
def test_any_python_string_becomes_a_valid_row(text):
    row = document_row(Document("x", text), 0, 0.5)
    assert row["text"].encode() == text.encode("utf-8", errors="replace")


def test_empty_documents_are_counted_and_a_corpus_of_them_is_an_error(tmp_path, settings_of):
    write_jsonl(tmp_path / "a.jsonl", [{"text": ""}, {"text": " \n"}, {"text": None}])
    settings = settings_of("jsonl", path=str(tmp_path / "a.jsonl"))
    with pytest.raises(TerseError, match="no document that contains text"):
        write_documents(settings, tmp_path / "d.parquet")
    assert [item.name for item in tmp_path.iterdir()] == ["a.jsonl"]
    write_jsonl(tmp_path / "a.jsonl", [{"text": ""}, {"text": "x"}, {"text": None}])
    assert write_documents(settings, tmp_path / "d.parquet")["n_empty"] == 2


def test_a_failing_source_leaves_the_old_file_and_nothing_half_written(tmp_path, settings_of):
    path = tmp_path / "d.parquet"
    write_jsonl(tmp_path / "a.jsonl", [{"text": "fine"}])
    settings = settings_of("jsonl", path=str(tmp_path / "a.jsonl"))
    write_documents(settings, path)
    before = path.read_bytes()
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n{"text": "bro\n')
    with pytest.raises(TerseError, match=r"a\.jsonl.*line 2"):
        write_documents(settings, path)
    assert path.read_bytes() == before
    assert sorted(item.name for item in tmp_path.iterdir()) == ["a.jsonl", "d.parquet"]


def test_memory_stays_bounded(tmp_path, settings_of, monkeypatch):
    monkeypatch.setattr(module, "ROW_GROUP_BYTES", 1000)
    write_jsonl(tmp_path / "a.jsonl", [{"text": "x" * 100} for _ in range(95)])
    write_documents(settings_of("jsonl", path=str(tmp_path)), tmp_path / "d.parquet")
    file = pq.ParquetFile(tmp_path / "d.parquet")
    assert [file.metadata.row_group(i).num_rows for i in range(10)] == [10] * 9 + [5]
    assert sum(map(len, read_documents(tmp_path / "d.parquet"))) == 95


def test_the_log_says_how_far_it_is(tmp_path, settings_of, monkeypatch, caplog):
    monkeypatch.setattr(module, "ROW_GROUP_BYTES", 1000)
    monkeypatch.setattr(progress, "INTERVAL_S", 0)
    write_jsonl(tmp_path / "a.jsonl", [{"text": "x" * 1000} for _ in range(3)])
    caplog.set_level("INFO")
    write_documents(settings_of("jsonl", path=str(tmp_path / "a.jsonl")), tmp_path / "d.parquet")
    lines = [record.getMessage().split(", ")[0] for record in caplog.records]
    counts = [f"{line.rsplit(' ', 2)[1]}" for line in lines]
    assert counts == ["1", "2", "3", "3"]
    assert lines[0] == f"reading jsonl {tmp_path}/a.jsonl: 1 documents"


def test_max_dataset_size_limits_documents(tmp_path, settings_of):
    write_jsonl(tmp_path / "a.jsonl", [{"text": str(i)} for i in range(30)])
    settings = settings_of("jsonl", path=str(tmp_path), max_dataset_size=7)
    assert sum(write_documents(settings, tmp_path / "d")["n_documents"].values()) == 7
