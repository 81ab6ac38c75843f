"""Progress of long work: a bar on a terminal, else one line per interval in the log."""

import logging
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Protocol, Self, TypeVar

from tqdm import tqdm

logger = logging.getLogger(__name__)

INTERVAL_S = 30.0
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Progress(ABC):
    """Counts work as it is done and reports it; a context manager that logs the total at the end.

    Args:
        what: name of the work in the bar and in the lines.
        bar: options of the bar, as for `tqdm`: its unit, its total.
    """

    def __init__(self, what: str, **bar: Any) -> None:
        self.what = what
        self.start = self.told = time.monotonic()
        self.bar = tqdm(desc=what, disable=not sys.stderr.isatty(), **bar)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.bar.close()
        if kind is not None or self.worth_telling:
            logger.info(self.last_line() if kind is None else self.line())

    @property
    def worth_telling(self) -> bool:
        """Whether the end of the work gets a line."""
        return True

    @property
    def elapsed_s(self) -> float:
        """Return the seconds since the start, above 0."""
        return max(1e-9, time.monotonic() - self.start)

    def advance(self, n: int) -> None:
        """Advance the bar by n of its units, and log a line if the last one is long ago."""
        self.bar.update(n)
        if self.bar.disable and time.monotonic() - self.told >= INTERVAL_S:
            self.told = time.monotonic()
            logger.info(self.line())

    @abstractmethod
    def line(self) -> str:
        """Return the line that is logged during the work."""

    def last_line(self) -> str:
        """Return the line that is logged when the work ends without an error."""
        return self.line()


class Batches(Progress):
    """Progress through batches, of which the number is known; less than a second gets no line."""

    def __init__(self, what: str, total: int) -> None:
        super().__init__(what, unit="batch", total=total)
        self.n, self.total = 0, total

    def advance(self, n: int) -> None:
        self.n += n
        super().advance(n)

    @property
    def worth_telling(self) -> bool:
        return self.elapsed_s >= 1

    def line(self) -> str:
        left = self.elapsed_s * (self.total - self.n) / max(1, self.n)
        return f"{self.what}: batch {self.n} of {self.total}, {left:.0f} s left"

    def last_line(self) -> str:
        return f"{self.what}: {self.total} batches in {self.elapsed_s:.0f} s"


class Counted(Protocol[T_co]):
    """Something to iterate over whose length is known, such as a range or a DataLoader."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[T_co]: ...


def shown(batches: Counted[T], what: str) -> Iterator[T]:
    """Yield each of some batches, and show the progress of the work on them."""
    with Batches(what, len(batches)) as progress:
        for batch in batches:
            yield batch
            progress.advance(1)
