"""Progress of capturing a shard."""

from tqdm import tqdm

from terse.activations.layout import size_text
from terse.machine.progress import Progress


class ContextProgress(Progress):
    """Counts contexts.

    Args:
        what: name of the work in the bar and in the lines.
        n: total number of contexts.
        ctx_len: tokens per context.
    """

    def __init__(self, what: str, n: int, ctx_len: int) -> None:
        super().__init__(what, unit="ctx", total=n)
        self.n, self.ctx_len = n, ctx_len
        self.done = self.bytes_written = 0

    def add(self, contexts: int, bytes_written: int) -> None:
        """Count more contexts; bytes_written is the total so far."""
        self.done += contexts
        self.bytes_written = bytes_written
        self.bar.set_postfix_str(self._rates(), refresh=False)
        self.advance(contexts)

    def line(self) -> str:
        """Return contexts, rates, bytes written and the remaining time."""
        left = self.elapsed_s * (self.n - self.done) / max(1, self.done)
        return f"{self._so_far()}, {tqdm.format_interval(left)} left"

    def last_line(self) -> str:
        """Return contexts, rates, bytes written and the time taken."""
        return f"{self._so_far()}, done in {tqdm.format_interval(self.elapsed_s)}"

    def _so_far(self) -> str:
        return f"{self.what}: {self.done} of {self.n} contexts, {self._rates()}"

    def _rates(self) -> str:
        per_second = self.done / self.elapsed_s
        return (
            f"{per_second:.2f} contexts/s, {per_second * self.ctx_len:.0f} tokens/s, "
            f"{size_text(self.bytes_written)} written"
        )
