"""How far the reading of a corpus has come: a bar on a terminal, else a line per interval."""

import logging
import sys
import time

from tqdm import tqdm

logger = logging.getLogger(__name__)

INTERVAL_S = 30.0


class Progress:
    """Counts documents and their UTF-8 bytes; a context manager that says at the end how many."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.documents = self.bytes = 0
        self.start = self.told = time.monotonic()
        self.bar = tqdm(desc=what, unit="B", unit_scale=True, disable=not sys.stderr.isatty())

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.close()
        self.tell()

    def add(self, documents: int, n_bytes: int) -> None:
        """Count some more documents."""
        self.documents += documents
        self.bytes += n_bytes
        self.bar.update(n_bytes)
        if self.bar.disable and time.monotonic() - self.told >= INTERVAL_S:
            self.tell()

    def tell(self) -> None:
        """Write a line to the log."""
        self.told = time.monotonic()
        rate = self.bytes / 1e6 / max(1e-9, self.told - self.start)
        sizes = (self.what, self.documents, self.bytes / 1e6, rate)
        logger.info("%s: %d documents, %.1f MB, %.1f MB/s", *sizes)
