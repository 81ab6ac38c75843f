"""What the allocator does, counted by the kernel."""

import platform
import subprocess
import sys

import pytest

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
