"""The files of a cache: checked once, opened as they are read, few of them open at a time."""

import json
import logging
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from terse.activations.layout import (
    EARLIER,
    FORMAT,
    OWN,
    SEAL,
    Seal,
    row_range,
    shard_name,
    widened,
)
from terse.errors import TerseError

log = logging.getLogger(__name__)

MOST_OPEN = 64
"""Files open at a time: a process may open 1,024 by default, and each holds up to 32 MB."""


class Shards:
    """All shards of a folder, in order, each found to be complete and to belong with the others.

    Attributes:
        header: attributes of the first shard.
        starts: (n_shards,) the first row of each; n_rows: of all.

    Raises:
        TerseError: a shard is missing, cut off or incomplete, or the shards do not belong together.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lock = threading.RLock()  # no thread closes a file that another one is reading
        self._open: OrderedDict[int, h5py.File] = OrderedDict()
        self._seals: dict[int, Seal] = {}
        self.paths = _paths(folder)
        with ExitStack() as undo:
            undo.callback(self.close)
            self.header = attributes_of(self.file(0))
            last = shard_name(self._seal(0).n_shards - 1)
            for path in (path for path in self.paths if path.name > last):
                log.warning("%s is ignored: it is from an earlier run with more shards", path)
            self.paths = [path for path in self.paths if path.name <= last]
            seals = [self._seal(number) for number in range(len(self.paths))]
            self._check_joined(seals)
            undo.pop_all()
        self.starts = np.array([seal.row_start for seal in seals])
        self.n_rows = seals[-1].row_stop

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[h5py.File]:
        return (self.file(number) for number in range(len(self)))

    def file(self, number: int) -> h5py.File:
        """Return a shard's open file; the one that was used longest ago may be closed for it."""
        with self.lock:
            if number not in self._open:
                while len(self._open) >= MOST_OPEN:
                    self._open.popitem(last=False)[1].close()
                self._open[number], self._seals[number] = open_whole(self.paths[number])
            self._open.move_to_end(number)
            return self._open[number]

    def close(self) -> None:
        """Close all files; a later read opens them again."""
        with self.lock:
            while self._open:
                self._open.popitem()[1].close()

    def _seal(self, number: int) -> Seal:
        self.file(number)
        return self._seals[number]

    def _check_joined(self, seals: list[Seal]) -> None:
        first, n_shards = seals[0], seals[0].n_shards
        present = {seal.shard for seal in seals}
        if missing := [shard_name(s) for s in range(n_shards) if s not in present]:
            raise TerseError(
                f"{self.folder} lacks {len(missing)} of {n_shards} shards: {missing[0]}, ..."
            )
        for number, seal in enumerate(seals):
            rows = row_range(first.n_rows, number, n_shards)
            alike = seal.common and seal.common == first.common
            apart = "" if alike else _differences(self.header, attributes_of(self.file(number)))
            if apart or (seal.row_start, seal.row_stop) != rows:
                raise TerseError(
                    f"{self.folder / shard_name(number)} does not belong with "
                    f"{shard_name(first.shard)}: they differ in {apart or 'their row ranges'}"
                )


class Rows:
    """One array over all shards; rows are read on access.

    Attributes:
        shape: (n, ...), n contexts.
        dtype: of the returned arrays; bfloat16 becomes float32, exactly, text becomes str.
    """

    def __init__(self, shards: Shards, path: str) -> None:
        self._shards, self._path = shards, path

    @cached_property
    def _stored(self) -> tuple[tuple[int, ...], np.dtype, bool]:
        """Shape of a row, dtype on disk, and whether these are the bits of bfloat16."""
        file = self._shards.file(0)
        with naming(file):
            first = _array(file, self._path)
            return first.shape[1:], first.dtype, attributes_of(first).get("dtype") == "bfloat16"

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, ...)."""
        return (self._shards.n_rows, *self._stored[0])

    @property
    def dtype(self) -> np.dtype:
        """Of the returned arrays."""
        return self._plain(np.empty(0, self._stored[1])).dtype

    def __len__(self) -> int:
        return self._shards.n_rows

    def __getitem__(self, index: int | slice) -> np.ndarray:
        """Return one row, or the rows i:j (steps of 1), read from disk."""
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step != 1:
                raise TerseError(f"rows are read with a step of 1, not {step}")
            return self._read(start, max(start, stop))
        if not -len(self) <= index < len(self):
            raise IndexError(f"there is no row {index}: there are {len(self)}")
        return self._read(index % len(self), index % len(self) + 1)[0]

    def tokens(self, place: int) -> np.ndarray:
        """Return one token of each context (n, D) of an array (n, T, D): position from 0, or -1."""
        return self._plain(
            np.concatenate([_array(file, self._path)[:, place] for file in self._shards])
        )

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[i] for i in range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:] if dtype is None else self[:].astype(dtype)

    def _read(self, start: int, stop: int) -> np.ndarray:
        row_shape, stored, _ = self._stored
        out = np.empty((stop - start, *row_shape), stored)
        ends = [*self._shards.starts[1:].tolist(), len(self)]
        number = int(np.searchsorted(self._shards.starts, start, side="right")) - 1
        while start < stop:
            first, end = int(self._shards.starts[number]), min(stop, ends[number])
            if start < end:  # a shard may have no rows
                part = out[len(out) - (stop - start) :][: end - start]
                self._read_part(number, slice(start - first, end - first), part)
            start, number = max(start, end), number + 1
        return self._plain(out)

    def _read_part(self, number: int, rows: slice, out: np.ndarray) -> None:
        """Read some rows of one shard; all of them by the shortest way through the library.

        A table of a 7B model reads 35,000 arrays of a few kB, each open and read in 0.2 ms; the
        high-level objects would take as long again.
        """
        with self._shards.lock:
            file = self._shards.file(number)
            with naming(file):
                array = _opened(file, self._path)
                whole = rows == slice(0, array.shape[0])
                if whole and out.size and out.dtype == array.dtype:
                    array.read(h5py.h5s.ALL, h5py.h5s.ALL, out)
                else:
                    h5py.Dataset(array).read_direct(out, rows)

    def _plain(self, stored: np.ndarray) -> np.ndarray:
        if stored.dtype.kind == "S":
            return stored.astype(f"U{stored.dtype.itemsize}")  # ASCII, checked
        return widened(stored) if self._stored[2] else stored


def _array(file: h5py.File, path: str) -> h5py.Dataset:
    return h5py.Dataset(_opened(file, path))


def _opened(file: h5py.File, path: str) -> h5py.h5d.DatasetID:
    try:
        return h5py.h5d.open(file.id, path.encode())
    except KeyError as error:
        raise TerseError(
            f"{file.filename} has no array {path!r}: it is damaged or not written by terse"
        ) from error


def attributes_of(target: h5py.File | h5py.Dataset) -> dict[str, Any]:
    """Return the attributes of a file or dataset as plain Python values."""
    values = {str(name): _plain(value) for name, value in target.attrs.items()}
    as_json = values.pop("stored_as_json", "").split(",")
    return {k: json.loads(v) if k in as_json else v for k, v in values.items()}


def _plain(value: Any) -> Any:
    plain = value.tolist() if isinstance(value, (np.generic, np.ndarray)) else value
    return plain.decode() if isinstance(plain, bytes) else plain


def _paths(folder: Path) -> list[Path]:
    paths = sorted(folder.glob("shard-*.h5"))
    if not paths:
        raise TerseError(f"no activations in {folder}: it holds no shard-*.h5")
    return paths


def open_whole(path: Path) -> tuple[h5py.File, Seal]:
    """Open one complete shard; return it and its seal.

    Raises:
        TerseError: it is cut off, not readable, or was not completed.
    """
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        reason = "cut off" if "truncated" in str(error) else f"not readable ({error})"
        raise TerseError(f"{path} is {reason}: delete it and run again") from error
    with naming(file):
        seal = _read_seal(file)
    if seal is None or seal.format != FORMAT:
        file.close()
        raise TerseError(f"{path} is not a complete shard of format {FORMAT}: delete it, run again")
    return file, seal


@contextmanager
def naming(file: h5py.File) -> Iterator[None]:
    """Name the file if HDF5 finds its own metadata damaged."""
    try:
        yield
    except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise TerseError(f"{file.filename} is damaged ({error}): delete it, run again") from error


def _read_seal(file: h5py.File) -> Seal | None:
    """Return a shard's seal, None if it isn't complete.

    In less than half the time of `file.attrs`, since a cache asks each of its files.
    """
    if h5py.h5a.exists(file.id, SEAL.encode()):
        attribute = h5py.h5a.open(file.id, SEAL.encode())
        stored = np.empty(attribute.shape, np.int64)
        attribute.read(stored)
        return Seal.read(stored)
    return _earlier_seal(file)


def _earlier_seal(file: h5py.File) -> Seal | None:
    """Return what a shard of an earlier version says in several attributes, None if incomplete."""
    about = file.attrs
    if not about.get("complete") or about.get("format") != FORMAT:
        return None
    names = Seal._fields[1:-1]
    place = about["place"] if "place" in about else [about[name] for name in names]
    digest = str(_plain(about["common_digest"])) if "common_digest" in about else ""
    numbers = np.array(place, dtype=np.int64).tolist()
    return Seal._make([FORMAT, *numbers, Seal.numbers(digest)])


def _differences(first: dict[str, Any], other: dict[str, Any]) -> str:
    names = sorted((first.keys() | other.keys()) - {*OWN, *EARLIER})
    return ", ".join(name for name in names if first.get(name) != other.get(name))
