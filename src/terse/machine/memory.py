"""Memory of the process, where the system's defaults cost time."""

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)


def keep_freed_memory() -> None:
    """Let the C library keep what is freed for the next tensor, where it can (glibc).

    By default it gives large blocks back to the system and gets them again page by page: measured
    as a sixth of a forward pass on a CPU. Holds for the whole process.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # another C library
        return
    mallopt(_M_MMAP_THRESHOLD, 2**30)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
