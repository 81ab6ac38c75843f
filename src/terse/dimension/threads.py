"""Whole pieces of work on one thread each, rather than every operation on all threads."""

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from queue import SimpleQueue
from typing import TypeVar

import torch
from threadpoolctl import ThreadpoolController

from terse.dimension.gram import Workspace, plain_arithmetic

Piece = TypeVar("Piece")
Result = TypeVar("Result")

_KEPT_BYTES = 1 << 25  # by a thread between two calls
_own = threading.local()


def _own_space() -> Workspace:
    """Return the buffers of this thread, which its next call will use: a call may be one cloud."""
    if not hasattr(_own, "space"):
        _own.space = Workspace()
    return _own.space


@lru_cache(maxsize=1)
def _scipy_blas() -> ThreadpoolController:
    """Return the control of the threads of SciPy's BLAS, which ignores torch's setting."""
    return ThreadpoolController().select(internal_api="openblas")


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep many short operations in a row on this thread; see `map_on_threads`."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def map_on_threads(
    work: Callable[[Piece, Workspace], Result], pieces: Iterable[Piece], device: torch.device
) -> Iterator[Result]:
    """Yield the result of each piece in order; on a CPU several are worked on at once.

    A cloud is hundreds of operations of a fraction of a millisecond. If all threads share each of
    them, they wait for each other longer than they work, above all on a busy machine. So every
    thread takes whole pieces, with buffers of its own. On a GPU the pieces run one after another.
    """
    pieces = list(pieces)
    threads = torch.get_num_threads()
    n_workers = 1 if device.type != "cpu" else min(threads, len(pieces))
    if n_workers < 2:
        space = _own_space() if device.type == "cpu" else Workspace()
        for piece in pieces:
            with plain_arithmetic(device):
                result = work(piece, space)
            yield result
        space.shrink(_KEPT_BYTES)
        return
    spaces: SimpleQueue[Workspace] = SimpleQueue()
    for _ in range(n_workers):
        spaces.put(Workspace())

    def one(piece: Piece) -> Result:
        space = spaces.get()
        try:
            with plain_arithmetic(device):
                return work(piece, space)
        finally:
            spaces.put(space)

    share = threads // n_workers
    torch.set_num_threads(share)  # between two results the caller must not compete with the workers
    try:
        with (
            _scipy_blas().limit(limits=share),
            ThreadPoolExecutor(n_workers, "terse", torch.set_num_threads, (share,)) as pool,
        ):
            yield from pool.map(one, pieces)
    finally:
        torch.set_num_threads(threads)
