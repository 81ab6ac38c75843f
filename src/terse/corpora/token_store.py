"""Reading tokenised corpora, without a tokenizer."""

from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from terse.corpora.document import SPLITS
from terse.corpora.h5 import Blocks, FileReader
from terse.errors import unknown_name


class TokenStore:
    """One split of a tokens file, read lazily; may be passed to other processes.

    tokens (N,) and byte_ends (N,) are HDF5 datasets; windows and window_ends are the same, for
    many short reads; offsets (D + 1,), n_bytes, ids and
    metadata (D,) are read into memory on access. Raises TerseError for an incomplete file.
    """

    def __init__(self, path: Path, split: str = "train") -> None:
        if split not in SPLITS:
            raise unknown_name("split", split, SPLITS)
        self.split = split
        self.reader = FileReader(path)
        attrs = self.reader.attrs
        self.fingerprint: str = attrs["fingerprint"]
        self.tokenizer_digest: str = attrs["tokenizer_digest"]
        self.vocab_size = int(attrs["vocab_size"])
        self.bos_id = int(attrs["bos_id"])
        self.eos_id = int(attrs["eos_id"])
        self.offsets: NDArray[np.int64] = self.dataset("offsets")[:]
        self.windows = Blocks(self.reader, f"{split}/tokens")
        self.window_ends = Blocks(self.reader, f"{split}/byte_ends")

    def dataset(self, name: str) -> h5py.Dataset:
        """Return one of the split's datasets."""
        return self.reader.dataset(f"{self.split}/{name}")

    @property
    def tokens(self) -> h5py.Dataset:
        """The tokens (N,) int32 of all documents, concatenated."""
        return self.dataset("tokens")

    @property
    def byte_ends(self) -> h5py.Dataset:
        """Where each token ends (N,) in its document, in UTF-8 bytes."""
        return self.dataset("byte_ends")

    @property
    def n_bytes(self) -> NDArray[np.int64]:
        """UTF-8 bytes (D,) of each document."""
        return self.dataset("n_bytes")[:]

    @property
    def ids(self) -> list[str]:
        """The documents' ids (D,)."""
        return self.reader.read(f"{self.split}/id").tolist()

    @property
    def metadata(self) -> list[str]:
        """The documents' metadata (D,), each as JSON."""
        return self.reader.read(f"{self.split}/metadata").tolist()

    def metadata_of(self, index: int) -> str:
        """Return the metadata of one document, as JSON."""
        value = self.dataset("metadata")[index]
        return value.decode() if isinstance(value, bytes) else str(value)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def document(self, index: int) -> NDArray[np.int32]:
        """Return the tokens (n,) of one document."""
        return self.tokens[self.offsets[index] : self.offsets[index + 1]]
