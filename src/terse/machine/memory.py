"""Memory of the process, where the system's defaults are slow."""

import ctypes

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
