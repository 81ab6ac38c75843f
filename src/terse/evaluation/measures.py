"""The rows of a run's `evaluation.csv`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Measure:
    """One row of a run's `evaluation.csv`: a value with its 95 % interval, of `n` items."""

    arm: str
    measure: str
    value: float
    interval_low: float = float("nan")
    interval_high: float = float("nan")
    n: int = 0
    flag: str = ""  # why the value is not to be trusted, or not there
