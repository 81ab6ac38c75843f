"""Writer and reader without a model: damage, gaps, full disks, two writers."""

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import h5py
import numpy as np
import psutil
import pytest

from terse.activations import cache, shards, writer
from terse.activations.layout import SEAL, Dataset, Seal, fixed_text
from terse.activations.shards import attributes_of
from terse.errors import TerseError

N, T, D = 10, 6, 4
VALUES = np.random.default_rng(0).normal(size=(N, T, D)).astype(np.float32)
DATASETS = [
    Dataset("tokens", (T,), "int32"),
    Dataset("activations/block-l0", (T, D), "float32", {"dtype": "float32"}),
]


def write_about(folder: Path, metadata: list[str]) -> Path:
    """Write a shard whose contexts have metadata."""
    modules = {"block-l0": {"path": "model.layers.0", "layer": 0, "width": D}}
    about = {"modules": modules, "shard": 0, "n_shards": 1, "n_rows": N}
    about |= {"row_start": 0, "row_stop": N}
    rows = {"id": [f"d-{i}" for i in range(N)], "metadata": metadata}
    path = folder / "shard-00000.h5"
    with cache.write_shard(
        path, DATASETS, N, attributes={**about, "row_stop": N}, rows=rows
    ) as out:
        out.put("tokens", 0, np.zeros((N, T), dtype=np.int32))
        out.put("activations/block-l0", 0, VALUES)
        out.publish()
    return path


def write(folder: Path, shard: int = 0, n_shards: int = 2, compression=None, **changes) -> Path:
    start, stop = shard * N // n_shards, (shard + 1) * N // n_shards
    attributes = {
        "modules": {"block-l0": {"path": "model.layers.0", "layer": 0, "width": D}},
        "shard": shard,
        "n_shards": n_shards,
        "n_rows": N,
        "row_start": start,
        "row_stop": stop,
        "model": "m",
    }
    path = folder / f"shard-{shard:05d}.h5"
    rows = {"id": [f"d-{i}" for i in range(start, stop)]}
    about = {**attributes, **changes}
    with cache.write_shard(
        path, DATASETS, stop - start, attributes=about, rows=rows, compression=compression
    ) as out:
        out.put("tokens", 0, np.full((stop - start, T), shard, dtype=np.int32))
        out.put("activations/block-l0", 0, VALUES[start:stop])
        out.publish()
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "a", 0)
    write(tmp_path / "a", 1)
    return tmp_path / "a"


def test_what_was_written_is_read(folder):
    with cache.open(folder) as found:
        np.testing.assert_array_equal(found.activations["block-l0"][3:8], VALUES[3:8])
        assert found.tokens[:][:, 0].tolist() == [0] * 5 + [1] * 5
        assert found.rows["id"].tolist() == [f"d-{i}" for i in range(N)]
    assert cache.verify(folder) == 3 * N


@pytest.mark.parametrize("row", [0, 3, 4])
def test_a_flipped_byte_is_named_by_file_module_and_row(folder, row):
    path = folder / "shard-00001.h5"
    content = bytearray(path.read_bytes())
    place = content.index(VALUES[5 + row].tobytes())
    content[place + 17] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(TerseError, match=rf"shard-00001\.h5: activations/block-l0, row {row};"):
        cache.verify(folder)


def test_a_flipped_byte_in_a_name_of_a_context_is_found(folder):
    path = folder / "shard-00000.h5"
    content = bytearray(path.read_bytes())
    content[content.index(b"d-3") + 2] = ord("4")
    path.write_bytes(content)
    with pytest.raises(TerseError, match=r"shard-00000\.h5: rows, row 3;"):
        cache.verify(folder)


def test_one_long_row_of_metadata_does_not_blow_up_the_others(tmp_path):
    metadata = ["{}", "", "größe 東京"] * 3 + ["x" * 2**20]
    path = write_about(tmp_path, metadata)
    assert path.stat().st_size < 2**20 + 2**15
    with cache.open(tmp_path) as found:
        assert found.rows["metadata"].tolist() == metadata
        assert found.rows["id"].tolist() == [f"d-{i}" for i in range(N)]
        assert list(found.rows.columns) == ["id", "metadata"]
    assert cache.verify(tmp_path) == 3 * N
    content = bytearray(path.read_bytes())
    content[content.index("東京".encode()) + 2] ^= 0x01
    path.write_bytes(content)
    with pytest.raises(TerseError, match=r"shard-00000\.h5: rows, row [258]"):
        cache.verify(tmp_path)
    with h5py.File(path, "r+") as file:
        file["rows/metadata_ends"][4] = 2**40
    with pytest.raises(TerseError, match=r"shard-00000\.h5"):
        cache.verify(tmp_path)


@pytest.mark.slow
def test_no_flipped_byte_of_a_small_shard_goes_unnoticed(tmp_path):
    """Data, CRCs, strings and HDF5's own metadata: each is covered by some check."""
    path = write(tmp_path, 0, 1)
    whole = path.read_bytes()
    with h5py.File(path) as file:
        before = attributes_of(file)
    missed = []
    for place in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[place] ^= 0x01
        path.write_bytes(damaged)
        try:
            cache.verify(tmp_path)
            with cache.open(tmp_path) as found:
                same = np.array_equal(found.activations["block-l0"][:], VALUES)
                same &= attributes_of(found.shards.file(0)) == before
                same &= found.rows["id"].tolist() == [f"d-{i}" for i in range(N)]
            if not same:
                missed.append(place)
        except TerseError as error:
            if str(tmp_path) not in str(error):
                missed.append(place)
    assert not missed


def test_damage_to_compressed_rows_is_named(tmp_path):
    path = write(tmp_path, 0, 1, compression="gzip")
    with h5py.File(path) as file:
        chunk = file["activations/block-l0"].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset + chunk.size // 2] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(TerseError, match=r"shard-00000\.h5: activations/block-l0, row \d"):
        cache.verify(tmp_path)


@pytest.mark.parametrize("kept", [0.999, 0.5, 0.01, 0])
def test_a_file_that_was_cut_off_is_refused(folder, kept):
    path = folder / "shard-00001.h5"
    os.truncate(path, int(path.stat().st_size * kept))
    with pytest.raises(TerseError, match=r"shard-00001\.h5 is (cut off|not readable)"):
        cache.open(folder)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("complete", False, "is not a complete shard"),
        ("format", 0, "is not a complete shard"),
        ("format", "other", "is not a complete shard"),
        ("row_start", None, "is damaged"),
        (SEAL, np.zeros(10, dtype=np.int64), "is not a complete shard"),
        (SEAL, 1, "is damaged"),
        (SEAL, "other", "is damaged"),
        (SEAL, np.arange(3), r"is damaged \(its seal has the shape \(3,\), not \(10,\)\)"),
        (SEAL, np.ones((2, 5), dtype=np.int64), "is damaged"),
    ],
)
def test_an_incomplete_or_foreign_file_is_refused(folder, name, value, message):
    with h5py.File(folder / "shard-00001.h5", "r+") as file:
        if value is None or name != SEAL:  # as in a shard of an earlier version, which had none
            del file.attrs[SEAL]
        if value is None:
            del file.attrs[name]
        else:
            file.attrs[name] = value
    with pytest.raises(TerseError, match=rf"shard-00001\.h5 {message}"):
        cache.open(folder)


def test_a_missing_shard_is_named(folder):
    (folder / "shard-00000.h5").unlink()
    with pytest.raises(TerseError, match=r"lacks 1 of 2 shards: shard-00000\.h5"):
        cache.open(folder)
    with pytest.raises(TerseError, match=r"holds no shard-\*\.h5"):
        cache.open(folder / "nowhere")


def test_shards_left_by_a_run_with_more_of_them_are_no_obstacle(folder, caplog):
    write(folder, 2, n_shards=3)
    with cache.open(folder) as found:
        np.testing.assert_array_equal(found.activations["block-l0"][:], VALUES)
    assert "shard-00002.h5 is ignored" in caplog.text
    write(folder, 1, n_shards=3)
    with pytest.raises(TerseError, match=r"shard-00001\.h5 does not belong.*differ in n_shards"):
        cache.open(folder)


def test_shards_that_do_not_belong_together_are_refused(folder):
    write(folder, 1, model="other")
    with pytest.raises(TerseError, match="differ in model"):
        cache.open(folder)
    write(folder, 1, row_start=4)
    with pytest.raises(TerseError, match="differ in their row ranges"):
        cache.open(folder)


def test_left_without_publish_nothing_stays(tmp_path):
    with pytest.raises(RuntimeError, match="boom"), _writer(tmp_path):
        raise RuntimeError("boom")
    assert not list(tmp_path.iterdir())
    with _writer(tmp_path) as out:
        out.put("tokens", 0, np.zeros((N - 1, T), dtype=np.int32))
        with pytest.raises(RuntimeError, match="not all rows"):
            out.publish()
    assert not list(tmp_path.iterdir())


def test_a_batch_of_the_wrong_shape_or_type_is_refused(tmp_path):
    with _writer(tmp_path) as out:
        with pytest.raises(ValueError, match="not a batch of its rows"):
            out.put("tokens", 0, np.zeros((2, T), dtype=np.int64))
        with pytest.raises(ValueError, match="not a batch of its rows"):
            out.put("tokens", 0, np.zeros((2, T + 1), dtype=np.int32))


def test_a_second_writer_is_refused_and_a_dead_ones_file_is_taken_over(tmp_path):
    with _writer(tmp_path), pytest.raises(TerseError, match="another process is writing"):
        _writer(tmp_path).__enter__()
    (tmp_path / ".shard-00000.h5.part").write_bytes(b"left by a killed process" * 1000)
    path = write(tmp_path, 0, 1)
    assert cache.verify(tmp_path) == 3 * N
    assert list(tmp_path.iterdir()) == [path]


def test_too_little_space_is_told_before_anything_is_written(tmp_path, monkeypatch):
    usage = shutil._ntuple_diskusage(100 * 2**30, 99 * 2**30, writer.MARGIN_BYTES + 100)
    monkeypatch.setattr(writer.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(TerseError, match=r"needs 1\.3 KiB and .* has 16\.0 MiB free: choose"):
        _writer(tmp_path).__enter__()
    assert not list(tmp_path.iterdir())


def test_a_disk_that_fills_up_is_one_clear_line_and_leaves_no_file(tmp_path):
    """A limit on the file size fails the same writes in the same place as a full disk."""
    script = textwrap.dedent(
        f"""
        import resource, sys, numpy as np
        from terse.activations import cache
        from terse.activations.layout import Dataset
        from terse.errors import TerseError
        data = [Dataset("activations/x", (1024, 256), "float32")]
        rows = {{"id": ["a"] * 8}}
        try:
            path = {str(tmp_path / "s.h5")!r}
            with cache.write_shard(path, data, 8, attributes={{}}, rows=rows) as out:
                resource.setrlimit(resource.RLIMIT_FSIZE, (3 * 2**20, 3 * 2**20))
                for row in range(8):
                    out.put("activations/x", row, np.ones((1, 1024, 256), np.float32))
                out.publish()
        except TerseError as error:
            sys.exit(f"one line: {{error}}")
        """
    )

    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "is full" in done.stderr
    assert "s.h5 was not written" in done.stderr
    assert not list(tmp_path.iterdir())


def _writer(folder: Path) -> cache.ShardWriter:
    path = folder / "shard-00000.h5"
    return cache.write_shard(path, DATASETS, N, attributes={}, rows={"id": ["x"] * N})


def test_few_files_are_open_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "MOST_OPEN", 2)
    for shard in range(5):
        write(tmp_path, shard, n_shards=5)
    here = psutil.Process()
    with cache.open(tmp_path) as found:
        for _ in range(2):
            np.testing.assert_array_equal(found.activations["block-l0"][1:], VALUES[1:])
            np.testing.assert_array_equal(found.activations["block-l0"].tokens(2), VALUES[:, 2])
            np.testing.assert_array_equal(found.activations["block-l0"][9], VALUES[9])
            assert len([f for f in here.open_files() if f.path.startswith(str(tmp_path))]) == 2
    assert not [f for f in here.open_files() if f.path.startswith(str(tmp_path))]


def test_the_seal_states_what_the_attributes_do(folder):
    with h5py.File(folder / "shard-00001.h5") as file:
        stored = file.attrs[SEAL]
        found = attributes_of(file)
    assert stored.tolist()[:6] == [found[name] for name in Seal._fields[:-1]] == [1, 1, 2, N, 5, N]
    with h5py.File(folder / "shard-00000.h5") as file:
        np.testing.assert_array_equal(file.attrs[SEAL][6:], stored[6:])
    write(folder, 0, model="other")
    with h5py.File(folder / "shard-00000.h5") as file:
        assert (file.attrs[SEAL][6:] != stored[6:]).any()


def as_earlier(path: Path, version: int) -> None:
    """Make a shard what versions 0 (each place on its own) and 1 (place and digest) wrote."""
    with h5py.File(path, "r+") as file:
        seal = file.attrs[SEAL]
        del file.attrs[SEAL]
        if version == 1:
            file.attrs["place"] = seal[1:6]
            file.attrs["common_digest"] = fixed_text(np.array(seal[6:].tobytes().hex()))


@pytest.mark.parametrize("first", [0, 1, 2])
@pytest.mark.parametrize("second", [0, 1, 2])
def test_shards_of_earlier_versions_are_read(folder, first, second):
    for number, version in enumerate((first, second)):
        if version < 2:
            as_earlier(folder / f"shard-{number:05d}.h5", version)
    with cache.open(folder) as found:
        np.testing.assert_array_equal(found.activations["block-l0"][:], VALUES)
        about = found.attributes
    assert about.keys() == {"modules", "n_shards", "n_rows", "model", "format", "complete"}
    for changes, what in (({"model": "other"}, "model"), ({"row_stop": 6}, "their row ranges")):
        as_written = write(folder, 1, **changes)
        if second < 2:
            as_earlier(as_written, second)
        with pytest.raises(TerseError, match=f"shard-00001.h5 does not belong .* in {what}"):
            cache.open(folder)


@pytest.mark.parametrize(("version", "n_read"), [(0, 2), (1, 0), (2, 0)])
def test_shards_with_a_digest_are_joined_without_reading_what_they_share(
    folder, version, n_read, monkeypatch
):
    write(folder, 0, residual_errors={"block-l0": 0.1})
    write(folder, 1, residual_errors={"block-l0": 0.2})
    for path in folder.glob("*.h5"):
        if version < 2:
            as_earlier(path, version)
    read = []
    whole = shards.attributes_of
    monkeypatch.setattr(shards, "attributes_of", lambda file: read.append(file) or whole(file))
    shards.Shards(folder).close()
    assert len(read) == 1 + n_read  # the first one's are the cache's


def test_a_shard_is_sealed_last(tmp_path):
    attributes = {"shard": 0, "n_shards": 1, "n_rows": N, "row_start": 0, "row_stop": N}
    path = tmp_path / "shard-00000.h5"
    rows = {"id": ["x"] * N}
    with cache.write_shard(path, DATASETS, N, attributes=attributes, rows=rows) as out:
        out.put("tokens", 0, np.zeros((N, T), dtype=np.int32))
        with h5py.File(out.temporary, locking=False) as file:
            assert not file.attrs["complete"]
            assert SEAL not in file.attrs
        out.put("activations/block-l0", 0, VALUES)
        out.publish()
    with h5py.File(path) as file:
        assert file.attrs["complete"]
        assert file.attrs[SEAL].shape == (10,)


def test_attributes_that_do_not_place_a_shard_make_no_seal():
    assert Seal.of({"model": "m"}) is None
