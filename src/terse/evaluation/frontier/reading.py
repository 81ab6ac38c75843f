"""What a way of reading gives for a window, and the contract of a way."""

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from terse.errors import TerseError
from terse.evaluation.frontier.windows import Window
from terse.machine.signals import Stopped

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cost:
    """A window read at one rate.

    rate: the requested share of positions; of a way without a choice, the one it has. nats: of the
    target, summed. n_targets: tokens or bytes of the target, in the reader's alphabet.
    positions_whole: of the whole context. positions_held: of them, or vectors, while the target is
    read, without the start token. positions_computed, flops: all passes from the context to the
    target's likelihood, without a head for what is not scored. bytes_held: of the keys and values
    of the held positions.
    """

    rate: float
    nats: float
    n_targets: int
    positions_whole: int
    positions_held: float
    positions_computed: float
    flops: float
    bytes_held: float


class Reading(ABC):
    """A way to read windows, with its reader loaded.

    positions: `dense`, `kept` (the original ones, with gaps) or `vectors` (without tokens of their
    own). fixed: whether it has a rate of its own instead of those of the study. note: what a
    reader of the results should know, for their column `flag`.
    """

    positions: str = "dense"
    fixed: bool = False
    note: str = ""

    @abstractmethod
    def read(self, window: Window, rates: Sequence[float]) -> list[Cost]:
        """Return the costs of a window at each rate; one cost if the way is `fixed`.

        What the rates share, such as the pass over the whole context, is computed once, and counted
        for each of them. Raises TerseError for a window that it can't read.
        """


ROW = ("window", "document", "context_bytes", "target_bytes", *(f.name for f in fields(Cost)))


def read_all(reading: Reading, windows: Sequence[Window], rates: Sequence[float]) -> pd.DataFrame:
    """Return a row for each window and rate: the window's number, document and bytes, and `Cost`.

    A fixed way has one rate for all windows, the mean share of positions that it holds.
    """
    rows = []
    with torch.inference_mode():
        for window in windows:
            about = {
                "window": window.number, "document": window.document,
                "context_bytes": window.context_bytes, "target_bytes": window.target_bytes,
            }  # fmt: skip
            rows += [{**about, **asdict(cost)} for cost in reading.read(window, rates)]
    table = pd.DataFrame(rows)
    if reading.fixed:
        table["rate"] = table["positions_held"].sum() / table["positions_whole"].sum()
    return table


def read_or_why(
    make: Callable[[], Reading], windows: Sequence[Window], rates: Sequence[float]
) -> pd.DataFrame:
    """Return `read_all` with the columns positions and flag, or a row whose flag says what failed.

    make: loads the reader and returns the way.
    """
    try:
        reading = make()
        table = read_all(reading, windows, rates)
        table["positions"], table["flag"] = reading.positions, reading.note
    except Stopped:
        raise
    except Exception as error:  # the other ways of the study are still worth comparing
        kind = "" if isinstance(error, TerseError) else f"{type(error).__name__}: "
        why = " ".join(f"{kind}{error}".split()) or type(error).__name__
        logger.debug("traceback", exc_info=error)
        logger.error("this way failed: %s", why)
        return pd.DataFrame([{**dict.fromkeys(ROW, math.nan), "positions": "", "flag": why}])
    return table


def at_rate(cost: Cost, rate: float) -> Cost:
    """Return a cost under another requested rate."""
    return replace(cost, rate=rate)


def n_left(rate: float, n: int) -> int:
    """Return how many of n positions a rate leaves, rounded down.

    Raises TerseError if that is none, unless the rate is 0.
    """
    left = int(rate * n + 1e-9)  # a product of floats can fall just below a whole number
    if left == 0 < rate:
        raise TerseError(
            f"a rate of {rate:g} leaves nothing of a context of {n} positions; raise it or "
            "context_bytes"
        )
    return left


def best(scores: Tensor, n: int) -> Tensor:
    """Return the indices of the n highest scores (..., L), in order, (..., n)."""
    return scores.topk(n, dim=-1).indices.sort(-1).values


def generator(seed: int, window: Window) -> np.random.Generator:
    """Return the random numbers of a window."""
    return np.random.default_rng([seed, window.number])
