"""What a way of reading gives for a window, and the contract of a way."""

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from terse.errors import TerseError
from terse.evaluation.frontier.held import Held, Places, States
from terse.evaluation.frontier.windows import Window
from terse.machine.signals import Stopped
from terse.models.layers import layer_list

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cost:
    """A window read at one rate.

    rate: the requested share of positions; of a way without a choice, the one it has. nats: of the
    target, summed. n_targets: tokens or bytes of the target, in the reader's alphabet.
    positions_whole: of the whole context. positions_held: of them, or vectors, while the target is
    read, without the start token. positions_computed, flops: all passes from the context to the
    target's likelihood, without a head for what is not scored. bytes_held: of the keys and values
    of the held positions. dimensions: of their states, if they are measured (see `Held`).
    """

    rate: float
    nats: float
    n_targets: int
    positions_whole: int
    positions_held: float
    positions_computed: float
    flops: float
    bytes_held: float
    dimensions: Mapping[str, float] = field(default_factory=dict)


class Reading(ABC):
    """A way to read windows, with its reader loaded.

    positions: `dense`, `kept` (the original ones, with gaps) or `vectors` (without tokens of their
    own). fixed: whether it has a rate of its own instead of those of the study. note: what a
    reader of the results should know, for their column `flag`. held: the states of its model, if
    their dimensions are measured.
    """

    positions: str = "dense"
    fixed: bool = False
    note: str = ""
    held: Held | None = None

    @abstractmethod
    def read(self, window: Window, rates: Sequence[float]) -> list[Cost]:
        """Return the costs of a window at each rate; one cost if the way is `fixed`.

        What the rates share, such as the pass over the whole context, is computed once, and counted
        for each of them. Raises TerseError for a window that it can't read.
        """

    @property
    def holder(self) -> nn.Module | None:
        """The language model that holds what is left of a context; None: it can't be measured."""
        return None

    def measure(self, estimators: Sequence[str]) -> None:
        """From now on, also estimate the dimensions of what is held, by names of estimators."""
        if self.holder is None or not estimators:
            return
        if (found := layer_list(self.holder)) is None:
            logger.warning("the reader has no list of blocks, so its states are not measured")
        else:
            self.held = Held(found[1], estimators)

    def dimensions(self, at: Places, states: States | None = None) -> dict[str, float]:
        """Return the dimensions of the states at the held positions, {} if they aren't measured.

        states: None: those of the latest pass.
        """
        if self.held is None:
            return {}
        return self.held.dimensions(self.held.states() if states is None else states, at)


COSTS = tuple(f.name for f in fields(Cost) if f.name != "dimensions")
ROW = ("window", "document", "context_bytes", "target_bytes", *COSTS)


def read_all(reading: Reading, windows: Sequence[Window], rates: Sequence[float]) -> pd.DataFrame:
    """Return a row for each window and rate: the window's number, document and bytes, and `Cost`.

    A fixed way has one rate for all windows, the mean share of positions that it holds. Dimensions,
    if they are measured, are further columns.
    """
    with torch.inference_mode():
        rows = [row_of(w, cost) for w in windows for cost in reading.read(w, rates)]
    table = pd.DataFrame(rows)
    if reading.fixed:
        table["rate"] = table["positions_held"].sum() / table["positions_whole"].sum()
    return table


def row_of(window: Window, cost: Cost) -> dict[str, Any]:
    """Return a window's row of a table: its number, document and bytes, the cost, dimensions."""
    values = asdict(cost)
    dimensions = values.pop("dimensions")
    about = (window.number, window.document, window.context_bytes, window.target_bytes)
    return dict(zip(ROW, (*about, *values.values()), strict=True)) | dimensions


def read_or_why(
    make: Callable[[], Reading],
    windows: Sequence[Window],
    rates: Sequence[float],
    estimators: Sequence[str] = (),
) -> pd.DataFrame:
    """Return `read_all` with the columns positions and flag, or a row whose flag says what failed.

    make: loads the reader and returns the way. estimators: of the dimension of what is held.
    """
    tables: dict[str, pd.DataFrame] = {}
    with failing(tables, ["this way"]):
        reading = make()
        reading.measure(estimators)
        table = read_all(reading, windows, rates)
        table["positions"], table["flag"] = reading.positions, reading.note
        tables["this way"] = table
    return tables["this way"]


@contextmanager
def failing(tables: dict[str, pd.DataFrame], ways: Iterable[str]) -> Iterator[None]:
    """Make of an error inside the tables of ways: a row whose flag says why.

    A way that has a table keeps it. A signal to stop is passed on.
    """
    try:
        yield
    except Stopped:
        raise
    except Exception as error:  # the other ways of the study are still worth comparing
        for way in ways:
            if way not in tables:
                tables[way] = _failed(way, error)


def _failed(way: str, error: Exception) -> pd.DataFrame:
    kind = "" if isinstance(error, TerseError) else f"{type(error).__name__}: "
    why = " ".join(f"{kind}{error}".split()) or type(error).__name__
    logger.debug("traceback", exc_info=error)
    logger.error("%s failed: %s", way, why)
    return pd.DataFrame([{**dict.fromkeys(ROW, math.nan), "positions": "", "flag": why}])


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
