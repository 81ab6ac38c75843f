"""The command `terse` as a user calls it, on real shards."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from terse.activations import cache
from terse.activations.layout import Dataset
from terse.cli import main

N, T, D = 6, 5, 4
VALUES = np.random.default_rng(0).normal(size=(N, T, D)).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    about = {
        "modules": {"mlp-l1": {"path": "layers.1.mlp", "layer": 1, "width": D}},
        "shard": 0, "n_shards": 1, "n_rows": N, "row_start": 0, "row_stop": N,
    }  # fmt: skip
    arrays = [
        Dataset("tokens", (T,), "int32"),
        Dataset("activations/mlp-l1", (T, D), "float32", {"dtype": "float32"}),
    ]
    rows = {"id": [f"d-{i}" for i in range(N)]}
    path = tmp_path / "activations" / "shard-00000.h5"
    with cache.write_shard(path, arrays, N, attributes=about, rows=rows) as out:
        out.put("tokens", 0, np.zeros((N, T), np.int32))
        out.put("activations/mlp-l1", 0, VALUES)
        out.publish()
    return path.parent


def terse(*words: object) -> tuple[int, str, str]:
    """Run the command; return its exit status and what it says."""
    command = [sys.executable, "-m", "terse.cli"]
    run = subprocess.run([*command, *map(str, words)], capture_output=True, text=True, timeout=120)
    return run.returncode, run.stdout, run.stderr


@pytest.fixture
def called(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Return `terse` in this process; a separate one would import torch each time."""

    def call(*words: object) -> tuple[int, str, str]:
        return main([str(word) for word in words]), *capsys.readouterr()

    return call


def test_verify_says_what_is_whole_and_what_is_not(
    folder: Path, tmp_path: Path, called: Callable[..., tuple[int, str, str]]
) -> None:
    assert called("verify", folder) == (0, f"{folder}: all 18 rows match their checksums\n", "")
    shard = folder / "shard-00000.h5"
    content = bytearray(shard.read_bytes())
    content[content.index(VALUES[4].tobytes()) + 3] ^= 1
    other = tmp_path / "other"
    other.mkdir()
    (other / shard.name).write_bytes(content)
    status, said, wrong = terse("verify", other, folder)
    assert status == 1
    assert "shard-00000.h5: activations/mlp-l1, row 4;" in wrong
    assert wrong.count("\n") == 1
    assert said == f"{folder}: all 18 rows match their checksums\n"  # the second is looked at
    status, _, wrong = called("verify", tmp_path / "nowhere")
    assert (status, wrong.count("\n")) == (1, 1)
    assert "holds no shard-*.h5" in wrong


def test_export_writes_the_other_layout_once(
    folder: Path, tmp_path: Path, called: Callable[..., tuple[int, str, str]]
) -> None:
    table = tmp_path / "ids.csv"
    rows = "".join(f"{i},mlp,1,mle,{i / 2}\n" for i in range(N))
    table.write_text("row,module,layer,estimator,id\n" + rows)
    out = tmp_path / "out"
    status, said, _ = called("export", folder, out, "--ids", table)
    assert (status, said) == (0, f"{out}: cache_mlp-l1.h5, metadata.csv\n")
    with h5py.File(out / "cache_mlp-l1.h5") as file:
        np.testing.assert_array_equal(file["activations"][:], VALUES)
        assert file["ID/mle"][:].tolist() == [i / 2 for i in range(N)]
    status, _, wrong = called("export", folder, out)
    assert (status, wrong) == (1, f"terse: {out} already exists: choose a new folder\n")
    status, _, wrong = called("export", folder, tmp_path / "b", "--ids", tmp_path / "no.csv")
    assert (status, wrong) == (1, f"terse: there is no table of dimensions {tmp_path}/no.csv\n")
