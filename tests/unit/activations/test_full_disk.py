"""A file system that really fills up in mid-shard: a small one, mounted for one process only."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tiny_llama import write_chunks

N = 600
MOUNTED = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
MOUNT = 'mount -t tmpfs -o size=64m tmpfs "$0" && exec "$@"'
JOB = """
import json, shutil, sys
from pathlib import Path
import torch
from tiny_llama import make_model, make_settings
from terse.activations import cache
from terse.activations.shard import cache_shard
from terse.errors import TerseError

torch.set_num_threads(1)
disk, chunks = map(Path, sys.argv[1:])
model, told, passes = make_model(), [], []

def fill_the_disk(*_):
    passes.append(1)
    if len(passes) == 60:
        with (disk / "other").open("wb", buffering=0) as other:
            try:
                while other.write(bytes(2**16)):
                    pass
            except OSError as error:
                told.append(error.errno)

def run():
    try:
        cache_shard(model, chunks, disk / "a" / "shard-00000.h5", shard=0, n_shards=1,
                    settings=make_settings(batch_size=4), attributes={})
    except TerseError as error:
        told.append(str(error))
    told.append(sorted(path.name for path in (disk / "a").iterdir()))

model.lm_head.register_forward_hook(fill_the_disk)
run()
told.append(shutil.disk_usage(disk).free > 2**20)
(disk / "other").unlink()
run()
print(json.dumps([*told, cache.verify(disk / "a")]))
"""


def can_mount(folder: Path) -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*MOUNTED, MOUNT, folder, "true"], capture_output=True).returncode == 0


@pytest.mark.slow
def test_one_line_no_file_and_the_next_try_is_whole(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if not can_mount(disk):
        pytest.skip("this user may not mount; a limit on the file size stands in: test_cache.py")
    chunks = write_chunks(tmp_path / "chunks.h5", n=N)
    job = [sys.executable, "-c", JOB, str(disk), str(chunks)]
    run = subprocess.run(
        [*MOUNTED, MOUNT, str(disk), *job], capture_output=True, text=True,
        cwd=Path(__file__).parents[2] / "support", timeout=240,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    no_space, sentence, left, freed, whole, rows = json.loads(run.stdout)
    assert no_space == 28
    assert sentence.startswith(f"the disk of {disk}/a is full (")
    assert sentence.endswith("shard-00000.h5 was not written")
    assert "\n" not in sentence
    assert left == []
    assert freed
    assert whole == ["shard-00000.h5"]
    assert rows == N * (5 * 10 + 4)  # five arrays of each of ten modules, four of the contexts
