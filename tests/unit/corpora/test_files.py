"""Local files, as people have them."""

import bz2
import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from terse.corpora.html_text import html_to_text
from terse.corpora.sources import iterate_documents
from terse.errors import TerseError

TEXTS = [f"text {i} über 東京\nsecond line" for i in range(300)]
LINES = "".join(json.dumps({"text": text, "n": i}) + "\n" for i, text in enumerate(TEXTS)).encode()
PACKERS = {
    "jsonl": lambda data: data,
    "jsonl.gz": gzip.compress,
    "jsonl.zst": zstandard.compress,
    "jsonl.bz2": bz2.compress,
}


def read(settings):
    return list(iterate_documents(settings))


@pytest.mark.parametrize("ending", PACKERS)
def test_jsonl_plain_and_compressed(tmp_path, settings_of, ending):
    path = tmp_path / f"a.{ending}"
    path.write_bytes(PACKERS[ending](LINES))
    found = read(settings_of("jsonl", path=str(path)))
    assert [document.text for document in found] == TEXTS
    assert [document.metadata for document in found] == [{"n": i} for i in range(300)]
    assert found[4].id == f"a.{ending}:5"


@pytest.mark.parametrize("ending", ["jsonl.gz", "jsonl.zst", "jsonl.bz2"])
@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
def test_a_cut_archive_is_an_error_not_a_short_corpus(tmp_path, settings_of, ending, share):
    whole = PACKERS[ending](LINES)
    (tmp_path / f"a.{ending}").write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(TerseError, match=rf"a\.{ending}"):
        read(settings_of("jsonl", path=str(tmp_path / f"a.{ending}")))


@pytest.mark.parametrize("ending", ["jsonl.gz", "jsonl.zst"])
def test_archives_of_several_parts_are_read_to_the_end(tmp_path, settings_of, ending):
    half = len(LINES.splitlines(keepends=True)[0]) * 100
    pack = PACKERS[ending]
    (tmp_path / f"a.{ending}").write_bytes(pack(LINES[:half]) + pack(LINES[half:]))
    found = read(settings_of("jsonl", path=str(tmp_path)))
    assert [document.text for document in found] == TEXTS


def test_files_are_read_in_order_of_name_and_a_subset_of_them(tmp_path, settings_of):
    for name in ("b/01.jsonl", "a/02.jsonl", "a/01.jsonl.gz", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        data = json.dumps({"text": name}).encode() + b"\n"
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)

    def names(**changes):
        return [d.text for d in read(settings_of("jsonl", path=str(tmp_path), **changes))]

    assert names() == ["a/01.jsonl.gz", "a/02.jsonl", "b/01.jsonl"]
    assert names(dataset_subset="01.*") == ["a/01.jsonl.gz", "b/01.jsonl"]
    assert names(dataset_subset="a/*") == ["a/01.jsonl.gz", "a/02.jsonl"]
    assert names(dataset_subset=1) == ["a/02.jsonl"]
    assert names(dataset_subset=[0, "b/*"]) == ["a/01.jsonl.gz", "b/01.jsonl"]
    assert names(dataset_subset=["text=b/01.jsonl", "text=a/02.jsonl"]) == [
        "a/02.jsonl", "b/01.jsonl",
    ]  # fmt: skip
    assert names(files=["b/*.jsonl"]) == ["b/01.jsonl"]
    assert names(max_dataset_size=2) == ["a/01.jsonl.gz", "a/02.jsonl"]
    with pytest.raises(TerseError, match=r"matches .* within the subset '03\*'"):
        names(dataset_subset="03*")
    with pytest.raises(TerseError, match=r"matches \*\.csv"):
        names(files=["*.csv"])
    with pytest.raises(TerseError, match="no file or folder"):
        read(settings_of("jsonl", path=str(tmp_path / "none")))


def test_rows_of_a_subset(tmp_path, settings_of):
    records = [{"text": str(i), "meta": {"set": "ab"[i % 2]}, "n": i} for i in range(6)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(r) + "\n\n" for r in records))

    def texts(subset):
        settings = settings_of("jsonl", path=str(tmp_path), dataset_subset=subset)
        return [(d.id, d.text) for d in read(settings)]

    assert texts("meta.set=b") == [("a.jsonl:3", "1"), ("a.jsonl:7", "3"), ("a.jsonl:11", "5")]
    assert texts("n=4") == [("a.jsonl:9", "4")]
    assert texts("n=40") == []
    with pytest.raises(TerseError, match="did you mean 'set'"):
        texts("meta.sat=b")


def test_parquet_is_streamed_row_group_by_row_group(tmp_path, settings_of):
    table = pa.table({"body": TEXTS, "n": range(300), "tags": [["a", "b"]] * 300})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=70)
    found = read(settings_of("parquet", path=str(tmp_path), text_column="body"))
    assert [document.text for document in found] == TEXTS
    assert found[299].metadata == {"n": 299, "tags": ["a", "b"]}
    assert found[299].id == "a.parquet:300"
    with pytest.raises(TerseError, match=r"row 1 of a\.parquet: unknown text_column 'text'"):
        read(settings_of("parquet", path=str(tmp_path)))
    with pytest.raises(TerseError, match="holds int, not text"):
        read(settings_of("parquet", path=str(tmp_path), text_column="n"))


@pytest.mark.parametrize("keep", [0, 50, 2000])
def test_a_cut_parquet_file_is_an_error(tmp_path, settings_of, keep):
    pq.write_table(pa.table({"text": TEXTS}), tmp_path / "a.parquet")
    data = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(data[:keep])
    with pytest.raises(TerseError, match=r"cannot read .*a\.parquet"):
        read(settings_of("parquet", path=str(tmp_path)))


@pytest.mark.parametrize(
    ("line", "message"),
    [('{"text": "a"', "line 2 is not JSON"), ("[1]", "line 2 is not a JSON object but list")],
)
def test_lines_that_are_no_records_are_named(tmp_path, settings_of, line, message):
    (tmp_path / "a.jsonl").write_text(f'{{"text": "fine"}}\n{line}\n')
    with pytest.raises(TerseError, match=message):
        read(settings_of("jsonl", path=str(tmp_path)))


def test_jsonl_that_is_not_utf8_is_an_error(tmp_path, settings_of):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "\xe9"}\n')
    with pytest.raises(TerseError, match=r"a\.jsonl"):
        read(settings_of("jsonl", path=str(tmp_path)))


def test_text_files_are_a_document_each(tmp_path, settings_of, caplog):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "b.txt").write_text("two\r\nlines", newline="")
    (tmp_path / "a.md").write_bytes(b"\xef\xbb\xbfwith a mark")
    (tmp_path / "c.rst.gz").write_bytes(gzip.compress("zipped über".encode()))
    (tmp_path / "d.txt").write_bytes(b"latin \xe9")
    (tmp_path / "e.html").write_text("<p>page")
    found = read(settings_of("text", path=str(tmp_path)))
    assert {document.id: document.text for document in found} == {
        "a.md": "with a mark",
        "c.rst.gz": "zipped über",
        "d.txt": "latin \ufffd",
        "deep/b.txt": "two\r\nlines",
    }
    assert [record.args[0].name for record in caplog.records] == ["d.txt"]
    pages = read(settings_of("text", path=str(tmp_path), files=["*.html"]))
    assert [document.text for document in pages] == ["page\n"]
    one = read(settings_of("text", path=str(tmp_path / "a.md")))
    assert [document.id for document in one] == ["a.md"]


def test_the_text_of_a_page():
    page = """<!doctype html><html><head><title>T</title><style>p {}</style></head><body>
    <h1>Head</h1><p>One <b>bold</b> word &amp; an <a href="x">anchor</a>.</p>
    <script>var x = "<p>";</script><ul><li>first<li>second</ul><p>tail"""
    text = html_to_text(page)
    assert text.split() == [
        "Head",
        "One",
        "bold",
        "word",
        "&",
        "an",
        "anchor.",
        "first",
        "second",
        "tail",
    ]
    assert "One bold word & an anchor." in text.splitlines()
    assert "\n\n\n" not in text
