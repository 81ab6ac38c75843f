"""Memory of the process: how much it was at most, and what the C library does with it."""

import ctypes
import re
import resource
import sys
from pathlib import Path

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)


def keep_freed_memory() -> None:
    """Let the C library keep freed memory for the next tensor, if it can (glibc).

    By default it returns large blocks to the system and gets them back page by page, which took a
    sixth of a forward pass on a CPU. Applies to the whole process.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # another C library
        return
    mallopt(_M_MMAP_THRESHOLD, 2**30)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def peak_bytes() -> int:
    """Return the most memory that this process has had at a time.

    A fork begins with its parent's. Where there is no /proc (macOS), a process may begin with the
    peak of the one that started it.
    """
    # Not getrusage on Linux: its peak outlives exec, so it begins with the memory of the starter.
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        status = ""
    if (peak := re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)) is not None:
        return int(peak[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
