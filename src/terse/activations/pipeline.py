"""From the device to the disk without making the model wait.

A bounded ring of host buffers, pinned if the model is on a GPU: the main thread fills one per
batch (one cast, one asynchronous copy per array), writer threads wait for the copy, compute the
CRCs and write. When all buffers are in use, the main thread waits: memory never grows.
"""

import queue
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from terse.activations.layout import TORCH_DTYPES, Dataset, as_stored
from terse.activations.writer import ShardWriter

GPU_WRITERS, GPU_SLOTS = 3, 5  # one is being filled, one copied, three written
CPU_WRITERS, CPU_SLOTS = 1, 2  # leave the cores to the model


class Slot:
    """Host buffers for one batch of every array of a shard."""

    def __init__(self, datasets: Sequence[Dataset], batch: int, *, pinned: bool) -> None:
        self.start = 0
        self.rows = 0
        self._tensors: dict[str, Tensor] = {}
        self._arrays: dict[str, np.ndarray] = {}
        self._events: list[torch.cuda.Event] = []
        for item in datasets:
            shape = (batch, *item.row_shape)
            if item.dtype in TORCH_DTYPES:
                tensor = torch.empty(shape, dtype=TORCH_DTYPES[item.dtype], pin_memory=pinned)
                self._tensors[item.path] = tensor
                self._arrays[item.path] = as_stored(tensor)
            else:
                self._arrays[item.path] = np.empty(shape, item.storage)

    def fill(self, path: str, values: Tensor | np.ndarray, stream: "CopyStreams") -> None:
        """Copy the rows (b, ...) of one array, cast to the stored dtype."""
        if isinstance(values, np.ndarray):
            self._arrays[path][: self.rows] = values
            return
        target = self._tensors[path][: self.rows]
        if values.is_cuda:
            stream.copy(values.to(target.dtype), target)
        else:
            target.copy_(values)

    def sealed(self, stream: "CopyStreams") -> "Slot":
        """Record the events after which the copies in flight are complete."""
        self._events = stream.events()
        return self

    def arrays(self) -> Iterator[tuple[str, np.ndarray]]:
        """Wait for the copies; yield path and stored rows."""
        for event in self._events:
            event.synchronize()
        for path, array in self._arrays.items():
            yield path, array[: self.rows]


class CopyStreams:
    """One CUDA stream per device, so that copies overlap with the next batch's computation."""

    def __init__(self) -> None:
        self._streams: dict[torch.device, torch.cuda.Stream] = {}

    def copy(self, source: Tensor, target: Tensor) -> None:
        """Copy a tensor on a GPU into pinned memory, asynchronously."""
        device = source.device
        if device not in self._streams:
            self._streams[device] = torch.cuda.Stream(device)
        stream = self._streams[device]
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            target.copy_(source, non_blocking=True)
        source.record_stream(stream)  # its memory is not reused before the copy is done

    def events(self) -> list[torch.cuda.Event]:
        """Return one event per device that fires when its copies so far are done."""
        events: list[torch.cuda.Event] = []
        for stream in self._streams.values():
            events.append(torch.cuda.Event())
            events[-1].record(stream)
        return events


class Pipeline:
    """Context manager around a writer: `slot` for each batch; leaving waits for the last write.

    Args:
        writer: the shard.
        batch: rows of the largest batch.
        on_gpu: pinned buffers and more threads.
    """

    def __init__(self, writer: ShardWriter, batch: int, *, on_gpu: bool) -> None:
        self._writer = writer
        self._streams = CopyStreams()
        self._free: queue.SimpleQueue[Slot] = queue.SimpleQueue()
        self._full: queue.SimpleQueue[Slot | None] = queue.SimpleQueue()
        self._error: BaseException | None = None
        datasets = list(writer.datasets.values())
        for _ in range(GPU_SLOTS if on_gpu else CPU_SLOTS):
            self._free.put(Slot(datasets, batch, pinned=on_gpu))
        # h5py's filters run under one lock, and chunks are best filled in order
        n_threads = GPU_WRITERS if on_gpu and not writer.compression else CPU_WRITERS
        self._threads = [
            threading.Thread(target=self._write, name=f"writer-{i}", daemon=True)
            for i in range(n_threads)
        ]

    def __enter__(self) -> "Pipeline":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        for _ in self._threads:
            self._full.put(None)
        for thread in self._threads:
            thread.join()
        if error is None:
            self._raise_error()

    @contextmanager
    def slot(self, start: int, rows: int) -> Iterator["Filler"]:
        """Lend a buffer for the rows start, ..., start + rows - 1, then pass it to a writer.

        Raises:
            TerseError: an earlier write failed.
        """
        slot = self._free.get()
        self._raise_error()
        slot.start, slot.rows = start, rows
        yield Filler(slot, self._streams)
        self._full.put(slot.sealed(self._streams))

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    def _write(self) -> None:
        while (slot := self._full.get()) is not None:
            try:
                if self._error is None:
                    for path, array in slot.arrays():
                        self._writer.put(path, slot.start, array)
            except BaseException as error:  # raised again in the main thread
                self._error = error
            finally:
                self._free.put(slot)


class Filler:
    """The main thread's view of a slot."""

    def __init__(self, slot: Slot, streams: CopyStreams) -> None:
        self._slot = slot
        self._streams = streams

    def put(self, path: str, values: Tensor | np.ndarray) -> None:
        """Start the copy of the rows (b, ...) of one array."""
        self._slot.fill(path, values, self._streams)
