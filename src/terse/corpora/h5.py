"""HDF5 files that are written once, front to back, and read lazily from any process."""

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from terse.errors import TerseError

CHUNK = 64 << 10  # elements; 256 KiB of int32


class Growing:
    """A one-dimensional dataset that is appended to."""

    def __init__(self, group: h5py.Group, name: str, dtype: Any) -> None:
        self.dataset = group.create_dataset(name, (0,), dtype, maxshape=(None,), chunks=(CHUNK,))

    def append(self, values: Sequence[Any] | NDArray[Any]) -> None:
        """Append the values."""
        start = len(self.dataset)
        self.dataset.resize(start + len(values), axis=0)
        self.dataset[start:] = values

    def __len__(self) -> int:
        return len(self.dataset)


class Blocks:
    """A long array (N,) that is read in short pieces: recent blocks of it stay in memory.

    HDF5 reads a whole block for each piece, and takes a third of a millisecond to find it again.

    Args:
        reader, name: the file and the dataset's path in it.
        most: blocks of 256 KiB in memory at a time.
    """

    def __init__(self, reader: "FileReader", name: str, most: int = 64) -> None:
        self.reader, self.name, self.most = reader, name, most
        self._kept: OrderedDict[int, NDArray[Any]] = OrderedDict()
        self._length = len(reader.dataset(name))

    def __getitem__(self, part: slice) -> NDArray[Any]:
        """Return elements start:stop, a copy."""
        start, stop, _ = part.indices(self._length)
        first, last = start // CHUNK, max(start, stop - 1) // CHUNK
        pieces = [self._block(number) for number in range(first, last + 1)]
        joined = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
        return joined[start - first * CHUNK : max(start, stop) - first * CHUNK].copy()

    def __len__(self) -> int:
        return self._length

    def _block(self, number: int) -> NDArray[Any]:
        if number not in self._kept:
            while len(self._kept) >= self.most:
                self._kept.popitem(last=False)
            dataset = self.reader.dataset(self.name)
            self._kept[number] = dataset[number * CHUNK : (number + 1) * CHUNK]
        self._kept.move_to_end(number)
        return self._kept[number]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": OrderedDict()}


class FileReader:
    """A complete HDF5 file, opened when it is first read; can be pickled."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.file: h5py.File | None = None
        self.attrs = {name: plain(value) for name, value in self.open().attrs.items()}
        if not self.attrs.get("complete"):
            raise TerseError(f"{path} is incomplete; delete it and run again")

    def open(self) -> h5py.File:
        """Return the file, opened."""
        if self.file is None:
            try:
                self.file = h5py.File(self.path, "r")
            except OSError as error:
                raise TerseError(
                    f"cannot read {self.path} ({error}); delete it and run again"
                ) from error
        return self.file

    def dataset(self, name: str) -> h5py.Dataset:
        """Return a dataset of the file by its path in it."""
        dataset = self.open()[name]
        if not isinstance(dataset, h5py.Dataset):
            raise TerseError(f"{self.path}: {name} is not a dataset")
        return dataset

    def read(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """Return elements [start, stop) of a dataset, text as str."""
        dataset = self.dataset(name)
        is_text = h5py.check_string_dtype(dataset.dtype) is not None
        return np.asarray((dataset.asstr() if is_text else dataset)[start:stop])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "file": None}


def plain(value: Any) -> Any:
    """Return an attribute as a plain Python value."""
    return value.item() if isinstance(value, np.generic) else value
