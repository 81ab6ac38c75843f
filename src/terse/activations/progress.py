"""How far a long pass has come: a bar on a terminal, one line per interval in a log."""

import logging
import sys
import time

from tqdm import tqdm

from terse.activations.layout import size_text

log = logging.getLogger(__name__)

INTERVAL_S = 30.0


class Progress:
    """Counts contexts; `step` after each batch, `close` at the end.

    Args:
        what: named in the bar and in the lines.
        n: contexts in all.
        ctx_len: tokens per context.
    """

    def __init__(self, what: str, n: int, ctx_len: int) -> None:
        self._what, self._n, self._ctx_len = what, n, ctx_len
        self._done = 0
        self._start = self._told = time.monotonic()
        self._bar = tqdm(total=n, desc=what, unit="ctx") if sys.stderr.isatty() else None

    def step(self, contexts: int, bytes_written: int) -> None:
        """Count some more contexts; bytes_written is the total so far."""
        self._done += contexts
        if self._bar is not None:
            self._bar.set_postfix_str(self._rates(bytes_written), refresh=False)
            self._bar.update(contexts)
        elif time.monotonic() - self._told >= INTERVAL_S:
            self._told = time.monotonic()
            left = (self._told - self._start) * (self._n - self._done) / max(1, self._done)
            log.info("%s, %s left", self._line(bytes_written), tqdm.format_interval(left))

    def close(self, bytes_written: int) -> None:
        """Say how long it all took."""
        if self._bar is not None:
            self._bar.close()
        elapsed = tqdm.format_interval(time.monotonic() - self._start)
        log.info("%s, done in %s", self._line(bytes_written), elapsed)

    def _line(self, bytes_written: int) -> str:
        return f"{self._what}: {self._done} of {self._n} contexts, {self._rates(bytes_written)}"

    def _rates(self, bytes_written: int) -> str:
        per_second = self._done / max(1e-9, time.monotonic() - self._start)
        return (
            f"{per_second:.2f} contexts/s, {per_second * self._ctx_len:.0f} tokens/s, "
            f"{size_text(bytes_written)} written"
        )
