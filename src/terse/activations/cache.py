"""Reading a folder of shards: joined, lazily, and only if all are complete."""

import json
import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import h5py
import numpy as np
import pandas as pd
from tqdm import tqdm

from terse.activations.layout import (
    FORMAT,
    ROW_FIELDS,
    array_at,
    arrays_in,
    context_crcs,
    group_at,
    read_rows,
    row_crcs,
    row_range,
    shard_name,
    widened,
)
from terse.activations.writer import ShardWriter
from terse.errors import TerseError, unknown_name

log = logging.getLogger(__name__)

write_shard = ShardWriter
OWN = ("shard", "row_start", "row_stop", "residual_errors")  # these differ between shards
READ_BYTES = 64 * 2**20
NAMED_DAMAGE = 8
Value = TypeVar("Value")


class Named(dict[str, Value]):
    """A map that answers a missing name with an error that lists the existing ones."""

    def __init__(self, kind: str, items: Mapping[str, Value]) -> None:
        super().__init__(items)
        self.kind = kind

    def __missing__(self, name: str) -> Value:
        raise unknown_name(self.kind, name, self)


class Rows:
    """One array over all shards; rows are read on access.

    Attributes:
        shape: (n, ...), n contexts.
        dtype: of the returned arrays; bfloat16 becomes float32, exactly, text becomes str.
    """

    def __init__(self, parts: list[h5py.Dataset], starts: list[int], n_rows: int) -> None:
        self._parts = parts
        self._starts = np.asarray(starts)
        self._bits = read_attributes(parts[0]).get("dtype") == "bfloat16"
        self.shape: tuple[int, ...] = (n_rows, *parts[0].shape[1:])
        self.dtype = self._plain(np.empty(0, parts[0].dtype)).dtype

    def __len__(self) -> int:
        return self.shape[0]

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
        parts = [part[:, place] for part in self._parts]
        return self._plain(np.concatenate(parts))

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[i] for i in range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:] if dtype is None else self[:].astype(dtype)

    def _read(self, start: int, stop: int) -> np.ndarray:
        out = np.empty((stop - start, *self.shape[1:]), self._parts[0].dtype)
        for part, first in zip(self._parts, self._starts, strict=True):
            low, high = max(start, first), min(stop, first + len(part))
            if low < high:
                part.read_direct(
                    out, np.s_[low - first : high - first], np.s_[low - start : high - start]
                )
        return self._plain(out)

    def _plain(self, stored: np.ndarray) -> np.ndarray:
        if stored.dtype.kind == "S":
            return np.char.decode(stored, "ascii")
        return widened(stored) if self._bits else stored


class Cache:
    """Context manager over all shards of one model.

    Attributes:
        attributes: common to all shards: model, corpus, settings, versions, ...
        modules: key -> {"path", "layer", "width"}, in the order of the model.
        activations: module -> (n, T, D), empty where no tensors were saved.
        means: module -> (n, D) float32; means_without_sinks: of the tokens that are not heavy.
        norms: module -> (n, T) float32, each token's norm about the latter, over the median.
        last_tokens: module -> (n, D), if only these were kept (no tensors saved).
        ids: estimator -> module -> (n,) float64, NaN where undefined.
        ids_without_sinks: the same with the heavy points left out.
        reasons: estimator -> module -> (n,) str, why an id is NaN, else "".
        flags: module -> (n,) str, words joined by ";", see `terse.dimension.Estimates`.
        n_eff, n_dup: module -> (n,) int32, points used and points dropped as duplicates.
        n_heavy: module -> (n,) int32; heaviest, first_share: module -> (n,) float64, see
            `terse.dimension.Estimates`.
        n_nonfinite: module -> (n,) int32.
        tokens: (n, T) int32.
        loss, entropy: (n, T-1) float32 in nats, or None.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        with ExitStack() as stack:
            self._files = [stack.enter_context(file) for file in _opened(self.folder)]
            self._header()
            self._stack = stack.pop_all()  # no error: open until `close`

    def _header(self) -> None:
        headers = []
        for file in self._files:
            with _naming(file):
                headers.append(read_attributes(file))
        _check_joined(self.folder, headers)
        self._starts = [header["row_start"] for header in headers]
        self.n_rows: int = headers[-1]["row_stop"]
        self.attributes = {k: v for k, v in headers[0].items() if k not in OWN}
        self.modules: dict[str, dict[str, Any]] = Named("module", self.attributes["modules"])
        self.activations = self._group("activations")
        self.means = self._group("means")
        self.means_without_sinks = self._group("means_without_sinks")
        self.norms = self._group("norms")
        self.last_tokens = self._group("last_tokens")
        self.n_nonfinite = self._group("n_nonfinite")
        self.n_eff, self.n_dup = self._group("n_eff"), self._group("n_dup")
        self.n_heavy, self.heaviest = self._group("n_heavy"), self._group("heaviest")
        self.first_share = self._group("first_share")
        self.ids_without_sinks = self._nested("ids_without_sinks")
        self.ids, self.reasons = self._nested("ids"), self._nested("reasons")
        self.flags = self._group("flags")
        self.tokens = self._rows("tokens")
        self.loss = self._rows("loss") if "loss" in self._files[0] else None
        self.entropy = self._rows("entropy") if "entropy" in self._files[0] else None

    def __enter__(self) -> "Cache":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files; arrays that were not read can't be read any more."""
        self._stack.close()

    @cached_property
    def rows(self) -> pd.DataFrame:
        """The contexts' columns: id, document, chunk, byte_start, byte_end, metadata."""
        parts = [_row_columns(file) for file in self._files]
        return pd.DataFrame({name: np.concatenate([p[name] for p in parts]) for name in parts[0]})

    def _rows(self, path: str) -> Rows:
        return Rows([array_at(file, path) for file in self._files], self._starts, self.n_rows)

    def _group(self, path: str) -> Named[Rows]:
        present = group_at(self._files[0], path) if path in self._files[0] else {}
        names = [name for name in self.modules if name in present]
        return Named(f"module of {path}", {name: self._rows(f"{path}/{name}") for name in names})

    def _nested(self, path: str) -> Named[Named[Rows]]:
        names = list(group_at(self._files[0], path)) if path in self._files[0] else []
        return Named("estimator", {name: self._group(f"{path}/{name}") for name in names})


def open(folder: str | Path) -> Cache:
    """Open all shards in a folder as one cache.

    Raises:
        TerseError: a shard is missing, cut off or incomplete, or the shards do not belong together.
    """
    return Cache(folder)


def verify(folder: str | Path) -> int:
    """Read every row again and compare it with its CRC; return how many rows were compared.

    Raises:
        TerseError: names the file, array (module) and row of each damage.
    """
    damage: list[str] = []
    compared = 0
    with open(folder) as cache, _bar(cache) as bar:
        for file in cache._files:
            with _naming(file):
                for path in _checked_paths(group_at(file, "crc")):
                    bad, n = _damaged_rows(file, path)
                    compared += n
                    damage += [f"{Path(file.filename).name}: {path}, row {row}" for row in bad]
                    bar.update(0 if path == "rows" else array_at(file, path).nbytes)
            log.info("%s: compared, %d rows so far", file.filename, compared)
    if damage:
        more = f" and {len(damage) - NAMED_DAMAGE} more" if len(damage) > NAMED_DAMAGE else ""
        raise TerseError(
            f"damaged in {folder} (rows counted from 0 in their file): "
            f"{'; '.join(damage[:NAMED_DAMAGE])}{more}; delete the file and run again"
        )
    return compared


def _bar(cache: Cache) -> tqdm:
    """Return a bar of the bytes to read, shown on a terminal."""
    total = sum(Path(file.filename).stat().st_size for file in cache._files)
    show = sys.stderr.isatty()
    return tqdm(total=total, desc=str(cache.folder), unit="B", unit_scale=True, disable=not show)


def read_attributes(target: h5py.File | h5py.Dataset) -> dict[str, Any]:
    """Return the attributes of a file or dataset as plain Python values."""
    values = {str(name): _plain(value) for name, value in target.attrs.items()}
    as_json = values.pop("stored_as_json", "").split(",")
    return {k: json.loads(v) if k in as_json else v for k, v in values.items()}


def _plain(value: Any) -> Any:
    plain = value.item() if isinstance(value, np.generic) else value
    return plain.decode() if isinstance(plain, bytes) else plain


def _opened(folder: Path) -> Iterator[h5py.File]:
    paths = sorted(folder.glob("shard-*.h5"))
    if not paths:
        raise TerseError(f"no activations in {folder}: it holds no shard-*.h5")
    first = _open_whole(paths[0])
    yield first
    with _naming(first):
        last = shard_name(read_attributes(first)["n_shards"] - 1)
    for path in paths[1:]:
        if path.name <= last:
            yield _open_whole(path)
        else:
            log.warning("%s is ignored: it is from an earlier run with more shards", path)


def _open_whole(path: Path) -> h5py.File:
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        reason = "cut off" if "truncated" in str(error) else f"not readable ({error})"
        raise TerseError(f"{path} is {reason}: delete it and run again") from error
    with _naming(file):
        whole = file.attrs.get("complete", False) and file.attrs.get("format") == FORMAT
    if not whole:
        file.close()
        raise TerseError(f"{path} is not a complete shard of format {FORMAT}: delete it, run again")
    return file


@contextmanager
def _naming(file: h5py.File) -> Iterator[None]:
    """Name the file if HDF5 finds its own metadata damaged."""
    name = file.filename
    try:
        yield
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise TerseError(f"{name} is damaged ({error}): delete it and run again") from error


def _check_joined(folder: Path, headers: list[dict[str, Any]]) -> None:
    first = headers[0]
    n_shards = first["n_shards"]
    present = {header["shard"] for header in headers}
    if missing := [shard_name(s) for s in range(n_shards) if s not in present]:
        raise TerseError(f"{folder} lacks {len(missing)} of {n_shards} shards: {missing[0]}, ...")
    for number, header in enumerate(headers):
        rows = row_range(first["n_rows"], number, n_shards)
        same = {k: v for k, v in header.items() if k not in OWN}
        if (header["row_start"], header["row_stop"]) != rows or same != {
            k: v for k, v in first.items() if k not in OWN
        }:
            raise TerseError(
                f"{folder / shard_name(number)} does not belong with {shard_name(first['shard'])}: "
                f"they differ in {_differences(first, header) or 'their row ranges'}"
            )


def _differences(first: dict[str, Any], other: dict[str, Any]) -> str:
    names = sorted((first.keys() | other.keys()) - set(OWN))
    return ", ".join(name for name in names if first.get(name) != other.get(name))


def _row_columns(file: h5py.File) -> dict[str, np.ndarray]:
    columns = read_rows(arrays_in(file, "rows"))
    names = [name for name in ROW_FIELDS if name in columns]
    return {name: columns[name] for name in [*names, *sorted(columns.keys() - names)]}


def _checked_paths(group: h5py.Group) -> list[str]:
    paths: list[str] = []
    group.visititems(
        lambda name, item: paths.append(name) if isinstance(item, h5py.Dataset) else None
    )
    return paths


def _damaged_rows(file: h5py.File, path: str) -> tuple[list[int], int]:
    expected = array_at(file, f"crc/{path}")[:]
    if path == "rows":
        found = context_crcs(_row_columns(file), len(expected))
    else:
        found = _array_crcs(array_at(file, path))
    return [int(row) for row in np.flatnonzero(found != expected)], len(expected)


def _array_crcs(array: h5py.Dataset) -> np.ndarray:
    """Return the CRC-32 of each row (n,), read in blocks."""
    n = len(array)
    step = max(1, READ_BYTES // max(1, array.nbytes // max(1, n)))
    blocks = [_block_crcs(array, start, min(start + step, n)) for start in range(0, n, step)]
    return np.concatenate(blocks) if blocks else np.empty(0, dtype=np.int64)


def _block_crcs(array: h5py.Dataset, start: int, stop: int) -> np.ndarray:
    """Return the CRCs of rows start to stop, -1 for a row that can't be decompressed."""
    try:
        return row_crcs(array[start:stop]).astype(np.int64)
    except OSError:
        if stop - start == 1:
            return np.array([-1])
        rows = range(start, stop)
        return np.concatenate([_block_crcs(array, row, row + 1) for row in rows])
