"""What the allocator does, and the peak, both as the kernel counts."""

import platform
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from terse.machine.memory import peak_bytes

CODE = """
import resource
import torch
from terse.machine.memory import keep_freed_memory

def faults() -> int:
    torch.ones(2_000_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        small, large = torch.ones(2_000_000), torch.ones(30_000_000)
        del small, large
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

first = faults()
keep_freed_memory()
faults()
print(first, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_memory_is_not_fetched_again_page_by_page() -> None:
    run = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    before, after = map(int, run.stdout.split())
    assert after < 100
    assert before > 10 * 1000 + after  # else this test shows nothing


PEAK = "from terse.machine.memory import peak_bytes; print(peak_bytes())"
HELD = 300_000_000


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the starter's memory counts")
def test_the_peak_of_a_process_is_its_own() -> None:
    held = np.ones(HELD, np.uint8)
    run = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    assert peak_bytes() > held.nbytes > int(run.stdout) > 1_000_000


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the starter's memory counts")
def test_a_fork_begins_with_what_its_parent_has_now_not_with_what_it_had() -> None:
    code = (
        "import os; from terse.machine.memory import peak_bytes; b = bytearray(b'x' * 300_000_000);"
        "del b; print(peak_bytes(), flush=True); os.fork() or print(peak_bytes(), flush=True);"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    parent, fork = map(int, run.stdout.split())
    assert parent > HELD > fork


def test_the_peak_where_there_is_no_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(_: Path) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", none)
    unit = 1 if sys.platform == "darwin" else 1024
    assert peak_bytes() == resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
