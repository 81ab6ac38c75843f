"""Short reads of a long array from the blocks of it that are kept."""

import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest

from terse.corpora import h5
from terse.corpora.h5 import Blocks, FileReader


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FileReader:
    monkeypatch.setattr(h5, "CHUNK", 8)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["numbers"] = np.arange(100)
        file.attrs["complete"] = True
    return FileReader(tmp_path / "a.h5")


def test_what_is_read_is_the_array_and_few_blocks_are_kept(reader: FileReader) -> None:
    blocks, whole = Blocks(reader, "numbers", most=3), np.arange(100)
    random = np.random.default_rng(0)
    pairs = [(0, 0), (0, 100), (99, 100), (7, 9), (8, 16), (100, 100), (50, 40), (96, 200)]
    pairs += random.integers(0, 101, size=(200, 2)).tolist()
    for start, stop in pairs:
        np.testing.assert_array_equal(blocks[start:stop], whole[start:stop])
        assert len(blocks._kept) <= 3
    blocks[16:20][:] = -1  # a copy: what was read may be changed
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(blocks))[14:20], whole[14:20])
    np.testing.assert_array_equal(blocks[14:20], whole[14:20])
