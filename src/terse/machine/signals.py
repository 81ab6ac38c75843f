"""How a job is told to stop, and how it reports that it did."""

import signal
from dataclasses import dataclass, field
from types import FrameType


class Stopped(Exception):  # noqa: N818 - not an error
    """The job was told to stop and has saved what it needs to resume."""


@dataclass
class StopSignal:
    """Set by SIGTERM (the scheduler's warning) or SIGINT; long work checks it and saves."""

    name: str | None = field(default=None)

    @property
    def requested(self) -> bool:
        return self.name is not None

    def install(self) -> "StopSignal":
        """Handle SIGTERM and SIGINT of this process; either may arrive more than once."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._request)
        return self

    def _request(self, number: int, _frame: FrameType | None) -> None:
        self.name = signal.Signals(number).name
