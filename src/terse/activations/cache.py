"""Reading a folder of shards: joined, lazily, and only if all are complete."""

import logging
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import h5py
import numpy as np
import pandas as pd
from tqdm import tqdm

from terse.activations.layout import (
    EARLIER,
    OWN,
    ROW_FIELDS,
    array_at,
    arrays_in,
    context_crcs,
    group_at,
    read_rows,
    row_crcs,
)
from terse.activations.shards import Rows, Shards, naming
from terse.activations.writer import ShardWriter
from terse.errors import TerseError, unknown_name

log = logging.getLogger(__name__)

write_shard = ShardWriter
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
        self.shards = Shards(self.folder)
        with ExitStack() as undo:
            undo.callback(self.shards.close)
            self._list_arrays(self.shards.file(0))
            undo.pop_all()

    def _list_arrays(self, first: h5py.File) -> None:
        """List what there is by the first shard; nothing is read before it is asked for."""
        header = self.shards.header
        self.n_rows = self.shards.n_rows
        self.attributes = {k: v for k, v in header.items() if k not in (*OWN, *EARLIER)}
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
        self.loss = self._rows("loss") if "loss" in first else None
        self.entropy = self._rows("entropy") if "entropy" in first else None

    def __enter__(self) -> "Cache":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        self.shards.close()

    @cached_property
    def rows(self) -> pd.DataFrame:
        """The contexts' columns: id, document, chunk, byte_start, byte_end, metadata."""
        parts = []
        for file in self.shards:
            with naming(file):
                parts.append(_row_columns(file))
        return pd.DataFrame({name: np.concatenate([p[name] for p in parts]) for name in parts[0]})

    def _rows(self, path: str) -> Rows:
        return Rows(self.shards, path)

    def _names(self, path: str) -> list[str]:
        """Return the names in a group of the first shard, none if it is missing."""
        first = self.shards.file(0)
        with naming(first):
            return list(group_at(first, path)) if path in first else []

    def _group(self, path: str) -> Named[Rows]:
        present = set(self._names(path))
        names = [name for name in self.modules if name in present]
        return Named(f"module of {path}", {name: self._rows(f"{path}/{name}") for name in names})

    def _nested(self, path: str) -> Named[Named[Rows]]:
        found = {name: self._group(f"{path}/{name}") for name in self._names(path)}
        return Named("estimator", found)


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
        for file in cache.shards:
            with naming(file):
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
    total = sum(path.stat().st_size for path in cache.shards.paths)
    show = sys.stderr.isatty()
    return tqdm(total=total, desc=str(cache.folder), unit="B", unit_scale=True, disable=not show)


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
