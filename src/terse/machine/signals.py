"""How a job is asked to stop, and how it says that it did."""

import signal
from dataclasses import dataclass, field
from types import FrameType


class Stopped(Exception):  # noqa: N818 - no error
    """The job was asked to stop and has saved what it needs to go on."""


@dataclass
class StopSignal:
    """Set by SIGTERM (the scheduler's warning) or SIGINT; long work looks at it and saves."""

    name: str | None = field(default=None)

    @property
    def requested(self) -> bool:
        return self.name is not None

    def install(self) -> "StopSignal":
        """Take over SIGTERM and SIGINT of this process; either may come more than once."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._request)
        return self

    def _request(self, number: int, _frame: FrameType | None) -> None:
        self.name = signal.Signals(number).name
