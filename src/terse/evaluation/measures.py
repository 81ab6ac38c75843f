"""The rows of a run's `evaluation.csv`."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import pandas as pd

from terse.errors import TerseError


@dataclass(frozen=True)
class Measure:
    """One row of a run's `evaluation.csv`: a value with its 95 % interval, of `n` items.

    targets: the tokens or bytes that it is measured on, if any: values on different targets are not
    comparable. flag: why the value is missing or not to be trusted.
    """

    arm: str
    measure: str
    value: float
    interval_low: float = float("nan")
    interval_high: float = float("nan")
    n: int = 0
    targets: str = ""
    flag: str = ""


def measures_table(measures: Sequence[Measure]) -> pd.DataFrame:
    """Return measures as `evaluation.csv`, one row each.

    Raises TerseError for a value that is not finite, unless a flag says why it is missing.
    """
    for found in measures:
        if not (math.isfinite(found.value) or (math.isnan(found.value) and found.flag)):
            raise TerseError(f"{found.measure} of arm {found.arm} is {found.value}")
        if math.isinf(found.interval_low) or math.isinf(found.interval_high):
            raise TerseError(f"the interval of {found.measure} of arm {found.arm} is infinite")
    return pd.DataFrame([asdict(measure) for measure in measures])
