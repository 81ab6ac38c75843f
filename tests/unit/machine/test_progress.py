"""Long work says how far it has come."""

import pytest

from terse.machine import progress
from terse.machine.progress import Progress, shown


class Steps(Progress):
    """Work of steps."""

    def line(self) -> str:
        return f"{self.what}: {self.bar.disable}"

    def last_line(self) -> str:
        return "finished"


def test_lines_come_at_intervals_and_at_the_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    caplog.set_level("INFO")
    with Steps("work") as work:
        for second in (29.0, 31.0, 60.0, 62.0):
            now = second
            work.advance(1)
    assert caplog.messages == ["work: True", "work: True", "finished"]


def test_work_that_failed_does_not_say_that_it_is_done(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    with pytest.raises(ValueError, match="broken"), Steps("work"):
        raise ValueError("broken")
    assert caplog.messages == ["work: True"]


def test_batches_say_what_is_left(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    caplog.set_level("INFO")
    seen = []
    for batch in shown(range(0, 8, 2), "scoring windows"):
        seen.append(batch)
        now += 20.0
    assert seen == [0, 2, 4, 6]
    assert caplog.messages == [
        "scoring windows: batch 2 of 4, 40 s left", "scoring windows: batch 4 of 4, 0 s left",
        "scoring windows: 4 batches in 80 s",
    ]  # fmt: skip
    caplog.clear()
    assert list(shown(range(3), "scoring windows")) == [0, 1, 2]
    assert not caplog.messages  # took no time
