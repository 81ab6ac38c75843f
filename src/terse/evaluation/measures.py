"""The rows of a run's `evaluation.csv`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Measure:
    """One row of a run's `evaluation.csv`: a value with its 95 % interval, of `n` items.

    targets: which tokens or bytes it is over, where it is over any: values over different targets
    are not to be compared. flag: why the value is not to be trusted, or not there.
    """

    arm: str
    measure: str
    value: float
    interval_low: float = float("nan")
    interval_high: float = float("nan")
    n: int = 0
    targets: str = ""
    flag: str = ""
