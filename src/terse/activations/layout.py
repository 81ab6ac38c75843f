"""The content of a shard: its datasets, how their rows are stored, how many bytes they take."""

import hashlib
import json
import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import h5py
import numpy as np
import torch

from terse.errors import TerseError

FORMAT = 1  # raise it when a reader of the older layout would misread the newer one
STORAGE = {  # name -> numpy dtype on disk; bfloat16 is stored as its bits
    "float16": "<f2",
    "bfloat16": "<u2",
    "float32": "<f4",
    "float64": "<f8",
    "int32": "<i4",
    "text": "S96",
}
TORCH_DTYPES = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
    "int32": torch.int32,
}
ROW_FIELDS = ("id", "document", "chunk", "byte_start", "byte_end", "metadata")
MARGIN_BYTES = 16 * 2**20  # metadata and file-system overhead beyond the arrays
PACKED_ABOVE = 2**20  # bytes of padding
ENDS = "_ends"
SEAL = "seal"
OWN = ("shard", "row_start", "row_stop", "residual_errors", SEAL)  # that differ between shards
EARLIER = ("place", "common_digest")  # attributes that only shards of an earlier version have


class Seal(NamedTuple):
    """What a cache asks of each of its files, in one attribute (10,) int64 that is written last.

    Reading an attribute takes a tenth of a millisecond, a third of opening a file.

    Attributes:
        format: FORMAT of its writer.
        shard, n_shards: which shard it is, of how many.
        n_rows, row_start, row_stop: contexts of the whole cache, and which of them it holds.
        common: SHA-256 of the attributes that all shards share, as four numbers; () in shards
            of the first versions.
    """

    format: int
    shard: int
    n_shards: int
    n_rows: int
    row_start: int
    row_stop: int
    common: tuple[int, ...] = ()

    @classmethod
    def of(cls, attributes: Mapping[str, Any]) -> "Seal | None":
        """Return the seal of a shard with these attributes, None if they don't place it."""
        names = cls._fields[1:-1]
        if not all(name in attributes for name in names):
            return None
        shared = {name: value for name, value in attributes.items() if name not in OWN}
        digest = hashlib.sha256(json.dumps(shared, sort_keys=True, default=str).encode())
        place = (attributes[name] for name in names)
        return cls._make([FORMAT, *place, cls.numbers(digest.hexdigest())])

    @staticmethod
    def numbers(digest: str) -> tuple[int, ...]:
        """Return a hexadecimal SHA-256 as four numbers."""
        return tuple(np.frombuffer(bytes.fromhex(digest), "<i8").tolist())

    def stored(self) -> np.ndarray:
        """Return it as it is stored, (10,) int64."""
        return np.array([*self[:-1], *self.common], dtype=np.int64)

    @classmethod
    def read(cls, stored: np.ndarray) -> "Seal":
        """Return the seal that is stored in an array (10,) int64. Raises ValueError."""
        if stored.shape != (10,):
            raise ValueError(f"its seal has the shape {stored.shape}, not (10,)")
        values = stored.tolist()
        n = len(cls._fields) - 1
        return cls._make([*values[:n], tuple(values[n:])])


@dataclass(frozen=True)
class Dataset:
    """One array of a shard, one row per context.

    Attributes:
        path: its path in the file, e.g. "activations/block-l3".
        row_shape: shape of one context's row, e.g. (T, D).
        dtype: a key of STORAGE.
        attributes: stored with the dataset.
    """

    path: str
    row_shape: tuple[int, ...]
    dtype: str
    attributes: dict[str, Any] = field(default_factory=dict)

    @property
    def storage(self) -> np.dtype:
        """The numpy dtype on disk, little endian."""
        return np.dtype(STORAGE[self.dtype])

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return math.prod(self.row_shape) * self.storage.itemsize

    @property
    def crc_path(self) -> str:
        """Where the CRC-32 of its rows is stored."""
        return f"crc/{self.path}"


def as_stored(tensor: torch.Tensor) -> np.ndarray:
    """Return a CPU tensor's memory as the array that is written, without a copy."""
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.view(torch.uint16)
    return tensor.numpy()


def widened(array: np.ndarray) -> np.ndarray:
    """Return stored bfloat16 bits (uint16) as float32 numbers."""
    return (array.astype(np.uint32) << 16).view(np.float32)


def as_text(words: Sequence[str]) -> np.ndarray:
    """Return short ASCII strings as an array (n,) of the stored text dtype."""
    stored = np.array([word.encode("ascii") for word in words], dtype=STORAGE["text"])
    if any(len(word) > stored.dtype.itemsize for word in words):
        raise ValueError(f"longer than {stored.dtype.itemsize} characters: {max(words, key=len)}")
    return stored


def fixed_text(strings: np.ndarray) -> np.ndarray:
    """Return strings as UTF-8 of one length, marked as text for HDF5.

    HDF5 keeps strings of varying length in a heap without checksums, where one flipped bit can
    send the library into an endless loop; strings of one length are stored with the checked data.
    """
    coded = np.array([str(item).encode() for item in strings.flat], dtype=np.bytes_)
    length = max(1, coded.dtype.itemsize)
    return coded.reshape(strings.shape).astype(h5py.string_dtype("utf-8", length))


def stored_rows(rows: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return the contexts' description, field -> (n,), as the arrays to write.

    Text has one length for all rows. If one long row would inflate the others, the bytes are
    concatenated instead, (n_bytes,) uint8, and `{field}_ends` (n,) holds where each row ends.
    """
    stored: dict[str, np.ndarray] = {}
    for name, values in rows.items():
        column = np.asarray(values)
        if column.dtype.kind not in "OU":
            stored[name] = column
            continue
        coded = [str(item).encode() for item in column]
        ends = np.cumsum([len(item) for item in coded], dtype=np.int64)
        if len(coded) * max(map(len, coded), default=0) <= PACKED_ABOVE + 2 * sum(map(len, coded)):
            stored[name] = fixed_text(column)
        else:
            stored[name] = np.frombuffer(b"".join(coded), dtype=np.uint8)
            stored[f"{name}{ENDS}"] = ends
    return stored


def read_rows(columns: Mapping[str, h5py.Dataset]) -> dict[str, np.ndarray]:
    """Return the input of `stored_rows`: field -> (n,) numbers or str."""
    rows: dict[str, np.ndarray] = {}
    for name, array in columns.items():
        if f"{name}{ENDS}" in columns:
            ends = columns[f"{name}{ENDS}"][:].tolist()
            packed = array[:].tobytes()
            pairs = zip([0, *ends], ends, strict=False)
            rows[name] = np.array([packed[a:b].decode() for a, b in pairs], dtype=object)
        elif not name.endswith(ENDS):
            rows[name] = read_column(array)
    return rows


def total_bytes(datasets: Iterable[Dataset], n_rows: int) -> int:
    """Return the size in bytes of a shard of n_rows contexts, without its strings."""
    return sum((item.row_bytes + 4) * n_rows for item in datasets)  # 4: the row's CRC


def size_text(n_bytes: float) -> str:
    """Return a number of bytes in a readable unit."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n_bytes < 1024:
            return f"{n_bytes:.1f} {unit}"
        n_bytes /= 1024
    return f"{n_bytes:.2f} TiB"


def shard_name(shard: int) -> str:
    """Return the file name of a shard."""
    return f"shard-{shard:05d}.h5"


def row_range(n_rows: int, shard: int, n_shards: int) -> tuple[int, int]:
    """Return the rows [start, stop) of the chunks that belong to a shard."""
    if not 0 <= shard < n_shards:
        raise TerseError(
            f"there is no shard {shard} of {n_shards}: allowed are 0 to {n_shards - 1}"
        )
    return shard * n_rows // n_shards, (shard + 1) * n_rows // n_shards


def row_crcs(values: np.ndarray) -> np.ndarray:
    """Return the CRC-32 of the bytes of each row of an array (b, ...): (b,) uint32."""
    as_bytes = np.ascontiguousarray(values).reshape(len(values), -1).view(np.uint8)
    return np.array([zlib.crc32(row.data) for row in as_bytes], dtype="<u4")


def context_crcs(rows: Mapping[str, Any], n_rows: int) -> np.ndarray:
    """Return the CRC-32 of each context's description: (n_rows,) uint32."""
    columns = [np.asarray(rows[name], dtype=object) for name in sorted(rows)]
    crcs = np.empty(n_rows, dtype="<u4")
    for i in range(n_rows):
        fields = (v.decode() if isinstance(v := c[i], bytes) else str(v) for c in columns)
        crcs[i] = zlib.crc32("\x1f".join(fields).encode())
    return crcs


def array_at(parent: h5py.Group, path: str) -> h5py.Dataset:
    """Return the array at a path of an HDF5 file."""
    found = parent.get(path)
    if not isinstance(found, h5py.Dataset):
        raise TerseError(
            f"{parent.file.filename} has no array {path!r}: it is damaged or not written by terse"
        )
    return found


def group_at(parent: h5py.Group, path: str) -> h5py.Group:
    """Return the group at a path of an HDF5 file."""
    found = parent.get(path)
    if not isinstance(found, h5py.Group):
        raise TerseError(
            f"{parent.file.filename} has no group {path!r}: it is damaged or not written by terse"
        )
    return found


def arrays_in(parent: h5py.Group, path: str) -> dict[str, h5py.Dataset]:
    """Return the arrays directly in a group, by name."""
    return {str(name): array_at(parent, f"{path}/{name}") for name in group_at(parent, path)}


def read_column(array: h5py.Dataset, part: slice = slice(None)) -> np.ndarray:
    """Return some rows of a column of numbers or strings."""
    text = h5py.check_string_dtype(array.dtype) is not None
    return np.asarray(array.asstr()[part] if text else array[part])
