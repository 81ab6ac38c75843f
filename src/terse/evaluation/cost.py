"""The cost of a forward pass: time, live memory, bytes of keys and values."""

import statistics
import time
import weakref
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Name = TypeVar("Name", bound=Hashable)
ROUNDS = 15


def interleaved(ways: dict[Name, Callable[[], Tensor]], rounds: int = ROUNDS) -> dict[Name, float]:
    """Return the median seconds of each way by its name; the ways are timed alternately."""
    seconds: dict[Name, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 2):
        for name, way in ways.items():
            begin = time.perf_counter()
            way().cpu()  # waits for the device
            if number >= 2:  # the first two warm up
                seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(found) for name, found in seconds.items()}


def cache_size(cache: Any) -> int:
    """Return the bytes of the keys and values in a cache of transformers."""
    tensors = [t for layer in cache.layers for t in (layer.keys, layer.values)]
    return sum(t.numel() * t.element_size() for t in tensors)


def peak_memory(way: Callable[[], Any]) -> int:
    """Return the peak bytes of tensors that were created inside `way` and alive at the same time.

    Memory that a kernel allocates internally is not counted.
    """
    with LiveTensors() as seen:
        way()
    return seen.peak


class LiveTensors(TorchDispatchMode):
    """Counts the bytes of live tensors that were created inside. peak: the maximum."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        outside = {x.untyped_storage()._cdata for x in given}
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._see(tensor.untyped_storage(), outside)
        return result

    def _see(self, storage: torch.UntypedStorage, outside: set[int]) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known or key in outside:
            return
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size
