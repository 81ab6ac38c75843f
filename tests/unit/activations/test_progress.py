"""One line per interval where there is no terminal."""

from terse.activations.progress import ContextProgress
from terse.machine import progress


def test_a_line_says_how_far_how_fast_how_much_and_how_long(monkeypatch, caplog):
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with caplog.at_level("INFO", logger="terse"), ContextProgress("s.h5", 30, 100) as told:
        now = 10.0
        told.add(5, 0)
        now = 40.0
        told.add(15, 3 * 2**20)
        now = 60.0
        told.add(10, 4 * 2**20)
    assert caplog.messages == [
        "s.h5: 20 of 30 contexts, 0.50 contexts/s, 50 tokens/s, 3.0 MiB written, 00:20 left",
        "s.h5: 30 of 30 contexts, 0.50 contexts/s, 50 tokens/s, 4.0 MiB written, done in 01:00",
    ]
