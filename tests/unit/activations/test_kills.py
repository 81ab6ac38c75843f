"""SIGKILL at random moments: files under a final name are whole, a rerun redoes the rest."""

import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from terse.activations.shards import open_whole
from tiny_llama import make_model, make_settings, write_chunks

N_SHARDS, N_KILLS, MOST_STARTS = 4, 5, 60
JOB = """
import json, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from terse.activations.shard import cache_shard
from terse.models.loading import load_model
from terse.settings.activations import Activations
model_path, chunks, out, settings = sys.argv[1:]
model = load_model(model_path)
print("ready", flush=True)
for shard in range({n_shards}):
    path = Path(out, f"shard-{{shard:05d}}.h5")
    if not path.exists():
        cache_shard(model, chunks, path, settings=Activations(**json.loads(settings)),
                    shard=shard, n_shards={n_shards}, attributes={{"model": "tiny"}})
"""


def start(arguments: list[str]) -> subprocess.Popen[str]:
    script = JOB.format(n_shards=N_SHARDS)
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def whole_shards(folder: Path) -> dict[str, float]:
    """Check every file under a final name; return when each was written."""
    for path in folder.glob("shard-*.h5"):
        open_whole(path)[0].close()
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("shard-*.h5")}


@pytest.mark.slow
def test_killed_at_random_moments_nothing_is_broken_or_redone(tmp_path):
    make_model().save_pretrained(tmp_path / "model")
    chunks = write_chunks(tmp_path / "chunks.h5", n=4000)
    settings = make_settings(batch_size=8)
    common = [str(tmp_path / "model"), str(chunks)]
    undisturbed = start([*common, str(tmp_path / "a"), settings.model_dump_json()])
    assert undisturbed.stdout
    undisturbed.stdout.readline()
    began = time.monotonic()
    assert undisturbed.wait(timeout=120) == 0
    duration = time.monotonic() - began

    disturbed = [*common, str(tmp_path / "b"), settings.model_dump_json()]
    choose = random.Random(0)
    finished: dict[str, float] = {}
    left_parts = 0
    for _ in range(MOST_STARTS):
        job = start(disturbed)
        assert job.stdout
        job.stdout.readline()
        time.sleep(choose.uniform(0, duration / N_SHARDS))
        job.kill()
        job.wait()
        left_parts += len(list((tmp_path / "b").glob(".*.part")))
        now = whole_shards(tmp_path / "b")
        assert {name: now[name] for name in finished} == finished
        finished = now
        if left_parts == N_KILLS:
            break
        if len(finished) == N_SHARDS:  # a quieter machine than the first time: from the start
            shutil.rmtree(tmp_path / "b")
            finished = {}
    assert left_parts == N_KILLS  # the kills came in mid-shard
    assert start(disturbed).wait(timeout=120) == 0
    now = whole_shards(tmp_path / "b")
    assert {name: now[name] for name in finished} == finished
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == sorted(now)
    for name in now:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
