"""Local files are read whatever they are packed and encoded in, or are named for what they are."""

import bz2
import gzip
import io
import json
import lzma
import os
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
import zstandard

from terse.corpora.documents import read_documents, write_documents
from terse.errors import TerseError
from terse.settings.corpora import Corpus

BOM = b"\xef\xbb\xbf"
HELLO = "hello wörld, a text from Notepad"


def lines(*texts: str) -> bytes:
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


def long_window(content: bytes) -> bytes:
    """Return what `zstd --long=31` makes of a stream."""
    parameters = zstandard.ZstdCompressionParameters(
        window_log=31, enable_ldm=True, compression_level=3
    )
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return packer.compress(content) + packer.flush()


def zipped(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.txt", content)
    return buffer.getvalue()


def tarred(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        entry = tarfile.TarInfo("a.txt")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def texts(folder: Path, path: Path, source: str, **settings: Any) -> list[str]:
    corpus = Corpus(source=source, path=str(path), validation_fraction=0, **settings)
    write_documents(corpus, folder / "out.parquet")
    return [row["text"] for rows in read_documents(folder / "out.parquet") for row in rows]


PACKED = {
    "a.jsonl": lines("one", "two"), "marked.jsonl": BOM + lines("one", "two"),
    "two-marks.jsonl": BOM + lines("one") + BOM + lines("two"),
    "marked.jsonl.gz": gzip.compress(BOM + lines("one", "two")),
    "utf16.jsonl": lines("one", "two").decode().encode("utf-16"),
    "utf16.jsonl.xz": lzma.compress(lines("one", "two").decode().encode("utf-16")),
    "long.jsonl.zst": long_window(lines("one", "two")),
    "frames.jsonl.zst": long_window(lines("one")) + zstandard.compress(lines("two")),
    "a.jsonl.xz": lzma.compress(lines("one")) + lzma.compress(lines("two")),
    "a.jsonl.bz2": bz2.compress(lines("one", "two")),
    "A.JSONL.GZ": gzip.compress(lines("one", "two")),
    "unnamed.jsonl": gzip.compress(lines("one", "two")),
}  # fmt: skip


@pytest.mark.parametrize("whole_folder", [False, True])
@pytest.mark.parametrize("name", PACKED)
def test_lines_are_read(name: str, whole_folder: bool, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(PACKED[name])
    path = tmp_path / "in" if whole_folder else tmp_path / "in" / name
    assert texts(tmp_path, path, "jsonl") == ["one", "two"]


ENCODED = {
    "utf16.txt": HELLO.encode("utf-16"), "be.txt": b"\xfe\xff" + HELLO.encode("utf-16-be"),
    "utf32.txt": HELLO.encode("utf-32"), "marked.md": BOM + HELLO.encode(),
    "packed.txt.xz": lzma.compress(HELLO.encode()), "PACKED.TXT.GZ": gzip.compress(HELLO.encode()),
    "a.rst.bz2": bz2.compress(HELLO.encode()), "a.TXT": HELLO.encode(),
    "a.txt.zst": long_window(HELLO.encode("utf-16")), "b.txt": gzip.compress(HELLO.encode()),
}  # fmt: skip


@pytest.mark.parametrize("name", ENCODED)
def test_texts_are_read(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(ENCODED[name])
    assert texts(tmp_path, tmp_path / "in", "text") == [HELLO]
    assert not caplog.records


FOREIGN = {
    "a.zip": (zipped(b"text"), "a zip archive"), "a.txt": (zipped(b"text"), "a zip archive"),
    "a.tar": (tarred(b"text"), "a tar archive"),
    "a.tar.gz": (gzip.compress(tarred(b"text")), "a tar archive"),
    "a.tar.zst": (zstandard.compress(tarred(b"text")), "a tar archive"),
    "a.txt.lz4": (b"\x04\x22\x4d\x18" + b"x" * 40, "lz4"), "b.txt": (b"7z\xbc\xaf\x27\x1c..", "7z"),
    "twice.txt.gz": (gzip.compress(gzip.compress(b"text")), "compressed data"),
    "unmarked.txt": (HELLO.encode("utf-16-le"), "UTF-16 without a mark"),
    "table.txt": (b"PAR1" + b"x" * 40, "parquet"), "paper.txt": (b"%PDF-1.7", "a PDF"),
}  # fmt: skip


@pytest.mark.parametrize("source", ["text", "jsonl"])
@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_no_text_is_named(name: str, source: str, tmp_path: Path) -> None:
    content, kind = FOREIGN[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TerseError, match=f"{name} holds .*{kind}"):
        texts(tmp_path, tmp_path / name, source)


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress, lzma.compress, long_window])
@pytest.mark.parametrize("left", [3, 30])
def test_a_cut_file_is_broken(pack: Any, left: int, tmp_path: Path) -> None:
    end = {gzip.compress: "gz", lzma.compress: "xz"}.get(pack, "zst")
    path = tmp_path / f"a.txt.{end}"
    path.write_bytes(pack(os.urandom(5000).hex().encode())[:-left])
    with pytest.raises(TerseError, match="cannot read"):
        texts(tmp_path, path, "text")


ROWS = [
    {"text": "a", "ok": True, "n": 1, "m": {"l": "x"}},
    {"text": "b", "ok": False, "n": 2.5, "m": None},
    {"text": "c", "ok": None, "n": 3, "m": {"l": None}},
]  # fmt: skip


@pytest.mark.parametrize(
    ("subset", "kept"),
    [
        ("ok=true", ["a"]), ("ok=True", ["a"]), ("ok=false", ["b"]), ("ok=null", ["c"]),
        ("ok=None", ["c"]), ("m.l=x", ["a"]), ("m.l=null", ["c"]), ("n=2.5", ["b"]), ("n=1", ["a"]),
    ],
)  # fmt: skip
def test_a_subset_of_rows(subset: str, kept: list[str], tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    assert texts(tmp_path, path, "jsonl", dataset_subset=subset) == kept


def test_a_subset_without_rows_is_told(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    with pytest.raises(TerseError, match=r"no document .* within the subset 'm.l=y'"):
        texts(tmp_path, path, "jsonl", dataset_subset="m.l=y")


@pytest.mark.parametrize(
    ("name", "message"),
    [(b"caf\xe9.txt", r"caf\\xe9.txt .*not UTF-8"), (b"{x}.txt", r"\{x\}.txt has braces")],
)
def test_names_that_a_workflow_cannot_hold(name: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    Path(os.fsdecode(os.fsencode(tmp_path / "in") + b"/" + name)).write_bytes(b"text")
    for path in (tmp_path / "in", tmp_path / "in" / os.fsdecode(name)):
        with pytest.raises(TerseError, match=message):
            texts(tmp_path, path, "text")


def test_a_folder_with_braces_is_named(tmp_path: Path) -> None:
    (tmp_path / "{corpus}").mkdir()
    (tmp_path / "{corpus}" / "a.txt").write_text("text")
    with pytest.raises(TerseError, match=r"\{corpus\} has braces"):
        texts(tmp_path, tmp_path / "{corpus}", "text")


@pytest.mark.parametrize("name", ["a [1].txt", "50 %.txt", "a*b.txt", "née.txt", "a b.txt"])
def test_other_names_are_read(name: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_text("text")
    assert texts(tmp_path, tmp_path / "in", "text") == ["text"]
