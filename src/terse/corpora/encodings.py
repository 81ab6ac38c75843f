"""How to read a file's bytes: its compression, its encoding, or why it can't be read as text."""

import io
import lzma
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import zstandard

LONGEST_WINDOW = 1 << 31  # bytes; what `zstd --long=31` writes, the maximum
BY_ENDING = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2", ".xz": "xz", ".lzma": "xz"}
BY_START = {
    b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bz2", b"\xfd7zXZ\x00": "xz",
}  # fmt: skip
MARKS = {
    b"\xff\xfe\x00\x00": "utf-32", b"\x00\x00\xfe\xff": "utf-32", b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16", b"\xef\xbb\xbf": "utf-8-sig",
}  # fmt: skip
FOREIGN = {
    b"PK\x03\x04": "a zip archive", b"PK\x05\x06": "an empty zip archive",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive", b"Rar!\x1a\x07": "a rar archive",
    b"\x04\x22\x4d\x18": "lz4-compressed data", b"\x1f\x9d": "compress-ed data (.Z)",
    b"PAR1": "a parquet table (source: parquet)", b"%PDF-": "a PDF document",
    b"SQLite format 3\x00": "an SQLite database", **dict.fromkeys(BY_START, "compressed data"),
}  # fmt: skip
TAR, TAR_AT = b"ustar", 257


def unpacked(raw: BinaryIO, path: Path) -> Any:
    """Return an opened file as a stream of its decompressed bytes, frame after frame."""
    start = raw.read(6)
    raw.seek(0)
    kind = BY_ENDING.get(path.suffix.lower()) or _first(BY_START, start)
    if kind == "zstd":
        return _ZstdFrames(raw)
    if kind == "xz":
        return lzma.open(raw)
    return raw if kind is None else pa.CompressedInputStream(raw, kind)


class _ZstdFrames(io.RawIOBase):
    """The frames of a zstd file, with windows of any length; a truncated one raises EOFError."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw, self._ready, self._frame = raw, b"", None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            if not (part := self._raw.read(1 << 16)):
                if self._frame is not None:
                    raise EOFError("it ends within a frame")
                return 0
            self._ready = b"".join(self._frames(part))
        n = min(len(buffer), len(self._ready))
        buffer[:n], self._ready = self._ready[:n], self._ready[n:]
        return n

    def _frames(self, part: bytes) -> Iterator[bytes]:
        while part:
            if self._frame is None:
                reader = zstandard.ZstdDecompressor(max_window_size=LONGEST_WINDOW)
                self._frame = reader.decompressobj()
            yield self._frame.decompress(part)
            if not self._frame.eof:
                return
            part, self._frame = self._frame.unused_data, None


def encoding_of(start: bytes) -> str:
    """Return the encoding of a text from its byte-order mark; UTF-8 without one."""
    return _first(MARKS, start) or "utf-8"


def foreign(start: bytes) -> str | None:
    """Return what kind of file starts with these bytes, None if it may be text."""
    if start[TAR_AT : TAR_AT + len(TAR)] == TAR:
        return "a tar archive"
    if (known := _first(FOREIGN, start)) is not None:
        return known
    if encoding_of(start) == "utf-8" and max(start[0::2].count(0), start[1::2].count(0)) * 4 > len(
        start
    ):
        return "UTF-16 without a mark, or binary data"
    return None


def _first(table: dict[bytes, str], start: bytes) -> str | None:
    return next((kind for mark, kind in table.items() if start.startswith(mark)), None)
