"""Codes of a whole corpus on disk: a second stage reads them instead of running its base again."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from terse.artifacts import atomic_file
from terse.corpora.document import SPLITS
from terse.corpora.h5 import FileReader, Growing
from terse.corpora.progress import DocumentProgress
from terse.errors import TerseError
from terse.methods.hierarchical.compressor import Segments
from terse.methods.hierarchical.model import HierarchicalAutoencoder
from terse.methods.hierarchical.rows import ByteRows, byte_store
from terse.methods.hierarchical.settings import PAD
from terse.methods.hierarchical.storage import load_hierarchical


def encode_with_base(
    base: Path,
    tokens: Path,
    out: Path,
    *,
    device: str,
    batch_size: int,
    train_rows: int | None = None,
) -> None:
    """Write the codes of a tokens file under the model in the folder `base`."""
    model = load_hierarchical(base)
    encode_corpus(model, tokens, out, device=device, batch_size=batch_size, train_rows=train_rows)


def encode_corpus(
    model: HierarchicalAutoencoder,
    tokens: Path,
    out: Path,
    *,
    device: str,
    batch_size: int,
    train_rows: int | None = None,
) -> None:
    """Write the boundaries and codes of each row of both splits, level by level.

    train_rows: number of rows of the training split, evenly spread; all if None.

    Per split and level: `opens` (all positions,) uint8 and `codes` (all segments x G,) int32, each
    with offsets (rows + 1,).
    """
    model = model.eval().to(device)
    with atomic_file(out) as partial, h5py.File(partial, "w") as file:
        file.attrs["sequence_length"] = model.settings.sequence_length
        for split in SPLITS:
            limit = train_rows if split == "train" else None
            rows = ByteRows(byte_store(tokens, split), model.settings.sequence_length, limit)
            _write_split(model, rows, file.create_group(split), device, batch_size)
        file.attrs["complete"] = True


@torch.inference_mode()
def _write_split(
    model: HierarchicalAutoencoder, rows: ByteRows, group: h5py.Group, device: str, size: int
) -> None:
    writers = [_LevelWriter(group, i) for i in range(len(model.levels))]
    with DocumentProgress(f"encoding {str(group.name).strip('/')}") as progress:
        for start in range(0, len(rows), size):
            chosen = [rows[i]["ids"] for i in range(start, min(start + size, len(rows)))]
            ids = torch.stack(chosen).to(device)
            for writer, level in zip(writers, model.encode(ids), strict=True):
                writer.write(level)
            progress.add(len(ids), int((ids != PAD).sum()))
    for writer in writers:
        writer.close()


class _LevelWriter:
    """Appends one level's rows without padding."""

    def __init__(self, group: h5py.Group, i: int) -> None:
        self.group, self.i = group, i
        self.opens = Growing(group, f"opens{i}", np.uint8)
        self.codes = Growing(group, f"codes{i}", np.int32)
        self.ends: dict[str, list[int]] = {"opens": [0], "codes": [0]}

    def write(self, level: Segments) -> None:
        lengths, mask = level.sequence.mask.sum(1).tolist(), level.sequence.mask
        self.opens.append(level.opens[mask].byte().cpu().numpy())
        self.codes.append(level.codes[level.real].flatten().int().cpu().numpy())
        self._extend("opens", lengths)
        self._extend("codes", [n * level.codes.shape[-1] for n in level.n.tolist()])

    def _extend(self, name: str, lengths: list[int]) -> None:
        for length in lengths:
            self.ends[name].append(self.ends[name][-1] + length)

    def close(self) -> None:
        for name, ends in self.ends.items():
            self.group.create_dataset(f"{name}{self.i}_offsets", data=np.array(ends, np.int64))


class CodedRows(Dataset[dict[str, Tensor]]):
    """Rows of bytes with their codes.

    An item is {"ids": (S,), "opens0": (T,) bool, "codes0": (N, G), ...}; only ids are padded.
    """

    def __init__(self, rows: ByteRows, path: Path, n_digits: list[int]) -> None:
        self.rows, self.split, self.n_digits = rows, rows.store.split, n_digits
        self.reader = FileReader(path)
        if self.reader.attrs["sequence_length"] != rows.sequence_length:
            raise TerseError(f"the codes in {path} have another sequence_length")
        self.offsets = {
            f"{name}{i}": self.reader.read(f"{self.split}/{name}{i}_offsets")
            for i in range(len(n_digits))
            for name in ("opens", "codes")
        }
        if len(self.offsets["codes0"]) != len(rows) + 1:
            raise TerseError(f"the codes in {path} have another number of rows: encode again")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        item = dict(self.rows[index])
        for i, G in enumerate(self.n_digits):
            opens = self._read(f"opens{i}", index % len(self))
            codes = self._read(f"codes{i}", index % len(self))
            item[f"opens{i}"] = torch.from_numpy(opens.astype(bool))
            item[f"codes{i}"] = torch.from_numpy(codes.astype(np.int64)).view(-1, G)
        return item

    def _read(self, name: str, index: int) -> Any:
        start, stop = map(int, self.offsets[name][index : index + 2])
        return self.reader.read(f"{self.split}/{name}", start, stop)


def collated(rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return a batch of rows, with boundaries and codes padded at the end."""
    batch = {"ids": torch.stack([row["ids"] for row in rows])}
    for name in rows[0]:
        if name != "ids":
            parts = [row[name] for row in rows]
            batch[name] = torch.nn.utils.rnn.pad_sequence(parts, batch_first=True)
    return batch
