"""Evictions of one reader, which share its passes over each window."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pandas as pd
import torch

from terse.errors import TerseError
from terse.evaluation.frontier.eviction import EvictedCache, Eviction, read_left, read_whole
from terse.evaluation.frontier.held import Held
from terse.evaluation.frontier.reader import CausalReader
from terse.evaluation.frontier.reading import failing, row_of
from terse.evaluation.frontier.ways import reading_of
from terse.evaluation.frontier.windows import Window


def read_evictions_or_why(
    load: Callable[[], CausalReader],
    ways: Sequence[str],
    windows: Sequence[Window],
    rates: Sequence[float],
    *,
    estimators: Sequence[str] = (),
    seed: int = 0,
) -> pd.DataFrame:
    """Return the table of each way that `reading.read_or_why` gives, with a column `way`.

    load: loads the reader. ways: `evict.` ones. A way that fails leaves the others alone; what they
    share, the reader and its passes, fails for all. estimators: of the dimension of what is held.
    """
    lost: dict[str, pd.DataFrame] = {}
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
    with failing(lost, ways), torch.inference_mode():
        reader = load()
        readings = _readings(ways, reader, seed, lost)
        held = _measured(list(readings.values()), estimators)
        for window in windows:
            tokens = reader.tokens(window)
            whole = read_whole(reader, tokens, held)
            evicted: dict[str, EvictedCache] = {}
            for way in [way for way in readings if way not in lost]:
                with failing(lost, [way]):
                    evicted[way] = readings[way].evict(whole, tokens, window, rates)
            for (way, left), nats in zip(
                evicted.items(), read_left(list(evicted.values())), strict=True
            ):
                with failing(lost, [way]):
                    costs = readings[way].costs(left, nats)
                    about = {"positions": readings[way].positions, "flag": readings[way].note}
                    found[way] += [row_of(window, cost) | about for cost in costs]
    tables = {way: lost.get(way, pd.DataFrame(rows)) for way, rows in found.items()}
    for way, table in tables.items():
        table.insert(0, "way", way)
    return pd.concat(tables.values(), ignore_index=True)


def _readings(
    ways: Iterable[str], reader: CausalReader, seed: int, lost: dict[str, pd.DataFrame]
) -> dict[str, Eviction]:
    made: dict[str, Eviction] = {}
    for way in ways:
        with failing(lost, [way]):
            reading = reading_of(way, reader, seed)
            if not isinstance(reading, Eviction):
                raise TerseError("it does not evict, so it shares no pass")
            made[way] = reading
    return made


def _measured(readings: Sequence[Eviction], estimators: Sequence[str]) -> Held | None:
    """Let all ways measure the states of the shared pass, and return where these are."""
    if not readings:
        return None
    readings[0].measure(estimators)
    for reading in readings[1:]:
        reading.held = readings[0].held
    return readings[0].held
