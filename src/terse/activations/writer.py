"""Writing one shard: by one process, under a temporary name, completely or not at all.

The arrays are contiguous and allocated when the file is created, so their offsets are known and
`pwrite` writes rows there from any thread, bypassing HDF5's global lock.
"""

import errno
import fcntl
import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np

from terse.activations.layout import (
    FORMAT,
    MARGIN_BYTES,
    SEAL,
    Dataset,
    Seal,
    array_at,
    context_crcs,
    fixed_text,
    group_at,
    row_crcs,
    size_text,
    stored_rows,
    total_bytes,
)
from terse.artifacts import sync
from terse.errors import TerseError

Compression = Literal["gzip", "lzf"]
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
SYNC_BYTES = 16 * 2**20  # written back at this interval, while the model runs: no burst at the end
CHUNK_BYTES = 4 * 2**20


class ShardWriter:
    """Context manager: `put` rows in any order, from any thread; `publish` at the end.

    Left without `publish`, it removes what it wrote. The temporary file is locked while it is
    written: a second writer of the same shard is refused; a killed writer's file is overwritten.

    Args:
        path: the shard's final name.
        datasets: the arrays.
        n_rows: number of contexts in the shard.
        attributes: of the file; maps, lists and None are stored as JSON.
        rows: the contexts' description, field -> (n_rows,) strings or integers.
        compression: a filter for the activations; None is fastest.
        confirm: raises if the shard has another owner by now; called before it is published.

    Raises:
        TerseError: too little space, a full disk, or another process writes this shard.
    """

    def __init__(
        self,
        path: str | Path,
        datasets: Sequence[Dataset],
        n_rows: int,
        *,
        attributes: Mapping[str, Any],
        rows: Mapping[str, Any],
        compression: Compression | None = None,
        confirm: Callable[[], None] = lambda: None,
    ) -> None:
        self.path = Path(path)
        self.temporary = self.path.with_name(f".{self.path.name}.part")
        self.datasets = {item.path: item for item in datasets}
        self.n_rows = n_rows
        self.attributes = dict(attributes)
        self._rows = stored_rows(rows)
        self._row_crcs = context_crcs(rows, n_rows)
        self.compression: Compression | None = compression
        self.confirm = confirm
        self.bytes_written = 0
        self._fd = -1
        self._offsets: dict[str, int] = {}
        self._file: h5py.File | None = None
        self._pending = dict.fromkeys(self.datasets, n_rows)
        self._unsynced = 0
        self._lock = threading.Lock()

    def __enter__(self) -> "ShardWriter":
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = sum(column.nbytes for column in self._rows.values())
        check_space(self.path, total_bytes(self.datasets.values(), self.n_rows) + text)
        self._fd = _locked(self.temporary, self.path)
        with ExitStack() as undo:
            undo.callback(self._discard)
            with self._telling_of_full_disk():
                self._create()
            undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            self._discard()

    def put(self, path: str, start: int, values: np.ndarray) -> None:
        """Write the rows start, start+1, ... of an array and their CRCs.

        Args:
            path: path of the dataset.
            start: row within the shard, from 0.
            values: (b, *row_shape), in the stored dtype.
        """
        item = self.datasets[path]
        if values.shape[1:] != item.row_shape or values.dtype != item.storage:
            raise ValueError(f"{path}: {values.dtype} {values.shape} is not a batch of its rows")
        values = np.ascontiguousarray(values)
        crcs = row_crcs(values)
        with self._telling_of_full_disk():
            self._write(path, start, values)
            self._write(item.crc_path, start, crcs)
            self._count(path, len(values), values.nbytes + crcs.nbytes)

    def publish(self) -> None:
        """Give the complete shard its final name, once its bytes are on the disk."""
        if missing := [path for path, n in self._pending.items() if n]:
            raise RuntimeError(f"{self.path}: not all rows were written of {missing}")
        with self._telling_of_full_disk():
            if self._file is not None:
                self._file.close()
            self._check_ours()
            with h5py.File(self.temporary, "r+", libver="v110", locking=False) as file:
                file.attrs["complete"] = True
                if seal := Seal.of(self.attributes):
                    file.attrs[SEAL] = seal.stored()
            os.fsync(self._fd)
            self._check_ours()
            self.temporary.replace(self.path)
        os.close(self._fd)
        self._fd = -1
        sync(self.path.parent)

    def _create(self) -> None:
        with ExitStack() as stack:
            file = stack.enter_context(
                h5py.File(
                    self.temporary, "w", libver="v110", locking=False, rdcc_nbytes=2 * CHUNK_BYTES
                )
            )
            _write_attributes(file, {**self.attributes, "format": FORMAT, "complete": False})
            for item in self.datasets.values():
                self._create_dataset(file, item)
            self._create_rows(file)
            if self.compression:  # its chunks go through HDF5: the file stays open
                self._file = file
                stack.pop_all()

    def _create_dataset(self, file: h5py.File, item: Dataset) -> None:
        shape = (self.n_rows, *item.row_shape)
        if self.compression and item.path.startswith("activations/"):
            rows = min(self.n_rows, max(1, CHUNK_BYTES // item.row_bytes))
            made = file.create_dataset(
                item.path,
                shape,
                item.storage,
                chunks=(rows, *item.row_shape) if rows else None,
                compression=self.compression,
                shuffle=True,
            )
        else:
            made = _contiguous(file, item.path, shape, item.storage)
        _write_attributes(made, item.attributes)
        crc = _contiguous(file, item.crc_path, (self.n_rows,), np.dtype("<u4"))
        if self.n_rows and not self.compression:
            self._offsets[item.path] = made.id.get_offset()
            self._offsets[item.crc_path] = crc.id.get_offset()

    def _create_rows(self, file: h5py.File) -> None:
        group = file.create_group("rows")
        for name, column in self._rows.items():
            group.create_dataset(name, data=column)
        group_at(file, "crc").create_dataset("rows", data=self._row_crcs)

    def _write(self, path: str, start: int, values: np.ndarray) -> None:
        if self._file is not None:
            array_at(self._file, path)[start : start + len(values)] = values
            return
        row_bytes = values.nbytes // len(values)
        offset = self._offsets[path] + start * row_bytes
        left = values.data.cast("B")
        while left:
            n = os.pwrite(self._fd, left, offset)
            left, offset = left[n:], offset + n

    def _count(self, path: str, rows: int, n_bytes: int) -> None:
        with self._lock:
            self._pending[path] -= rows
            self.bytes_written += n_bytes
            self._unsynced += n_bytes
            sync = self._unsynced >= SYNC_BYTES
            if sync:
                self._unsynced = 0
        if sync:
            os.fdatasync(self._fd)

    def _discard(self) -> None:
        if self._file is not None:
            self._file.close()
        if _is_at(self.temporary, self._fd):
            self.temporary.unlink()
        os.close(self._fd)
        self._fd = -1

    def _check_ours(self) -> None:
        self.confirm()
        if not _is_at(self.temporary, self._fd):
            raise TerseError(f"{self.path} was taken over by another process: not published here")

    @contextmanager
    def _telling_of_full_disk(self) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError) as error:  # h5py hides the number in its message
            hidden = re.search(r"errno = (\d+)", str(error))
            number = int(hidden[1]) if hidden else getattr(error, "errno", None)
            if number not in NO_SPACE:
                raise
            free = shutil.disk_usage(self.path.parent).free
            raise TerseError(
                f"the disk of {self.path.parent} is full ({size_text(free)} free, or a limit "
                f"on a file's size is reached): {self.path.name} was not written"
            ) from error


def check_space(path: Path, n_bytes: int) -> None:
    """Raise TerseError if a file of n_bytes does not fit on the disk of `path`."""
    free = shutil.disk_usage(path.parent).free
    if n_bytes + MARGIN_BYTES > free:
        raise TerseError(
            f"{path} needs {size_text(n_bytes)} and {path.parent} has {size_text(free)} "
            "free: choose fewer layers or modules, save_fp: float16, or save_cache_tensors: false"
        )


def _locked(temporary: Path, path: Path) -> int:
    """Open and lock the temporary file; return its descriptor."""
    while True:
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            raise TerseError(f"another process is writing {path}") from error
        if _is_at(temporary, descriptor):
            if os.fstat(descriptor).st_size == 0:
                return descriptor
            # Its writer was killed, or runs on another host where it holds its own lock.
            temporary.unlink()
        os.close(descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
    """Return whether the open file still has this name."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _contiguous(
    file: h5py.File, path: str, shape: tuple[int, ...], dtype: np.dtype
) -> h5py.Dataset:
    """Create a dataset that is allocated immediately, without a time stamp."""
    parent, _, name = path.rpartition("/")
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_layout(h5py.h5d.CONTIGUOUS)
    plan.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    plan.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    plan.set_obj_track_times(False)
    space = h5py.h5s.create_simple(shape)
    kind = h5py.h5t.py_create(dtype, logical=True)
    group = file.require_group(parent) if parent else file
    return h5py.Dataset(h5py.h5d.create(group.id, name.encode(), kind, space, plan))


def _write_attributes(target: h5py.File | h5py.Dataset, attributes: Mapping[str, Any]) -> None:
    as_json = []
    for name, value in attributes.items():
        if value is None or isinstance(value, (dict, list, tuple)):
            as_json.append(name)
            value = json.dumps(value, default=str)
        target.attrs[name] = fixed_text(np.array(value)) if isinstance(value, str) else value
    target.attrs["stored_as_json"] = fixed_text(np.array(",".join(as_json)))
