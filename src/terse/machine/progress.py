"""How far long work has come: a bar on a terminal, else one line per interval in the log."""

import logging
import sys
import time
from abc import ABC, abstractmethod
from typing import Any, Self

from tqdm import tqdm

logger = logging.getLogger(__name__)

INTERVAL_S = 30.0


class Progress(ABC):
    """Counts work as it is done and tells of it; a context manager that says at the end how much.

    Args:
        what: named in the bar and in the lines.
        bar: options of the bar, as `tqdm` takes them: its unit, its total.
    """

    def __init__(self, what: str, **bar: Any) -> None:
        self.what = what
        self.start = self.told = time.monotonic()
        self.bar = tqdm(desc=what, disable=not sys.stderr.isatty(), **bar)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.bar.close()
        logger.info(self.last_line() if kind is None else self.line())

    @property
    def elapsed_s(self) -> float:
        """Return the seconds since the start, above 0."""
        return max(1e-9, time.monotonic() - self.start)

    def advance(self, n: int) -> None:
        """Move the bar by n of its units, and write a line if the last one is long past."""
        self.bar.update(n)
        if self.bar.disable and time.monotonic() - self.told >= INTERVAL_S:
            self.told = time.monotonic()
            logger.info(self.line())

    @abstractmethod
    def line(self) -> str:
        """Return what there is to say in between."""

    def last_line(self) -> str:
        """Return what there is to say at the end of work without an error."""
        return self.line()
