"""The dimensions of the states that are held, against the model's own hidden states."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from terse.dimension import estimate
from terse.evaluation.frontier.eviction import Eviction, held_entries, read_whole
from terse.evaluation.frontier.reader import CausalReader
from terse.evaluation.frontier.reading import n_left, read_all
from terse.evaluation.frontier.scores import TOO_FEW, Frontier
from terse.evaluation.frontier.ways import reading_of
from tiny_frontier import causal_reader, measured, n_held, windows

NAMES = ("twoNN_mle", "participation_ratio")
N_LAYERS = 4


@pytest.fixture(scope="module")
def reader() -> CausalReader:
    torch.set_num_threads(1)
    return causal_reader(num_hidden_layers=N_LAYERS)


def dimensions(way: str, reader: CausalReader, rate: float) -> dict[str, float]:
    reading = reading_of(way, reader, 0)
    reading.measure(NAMES)
    (row,) = read_all(reading, windows(1), [rate]).to_dict("records")
    return {str(k): v for k, v in row.items() if str(k).endswith(("_middle", "_last"))}


@torch.inference_mode()
def states(reader: CausalReader, ids: Tensor) -> dict[str, Tensor]:
    """Return what blocks 2 and 3 of 4 read, (T, D) each."""
    ids = torch.cat([torch.tensor([reader.start]), ids])[None]
    found = reader.lm(ids, output_hidden_states=True).hidden_states
    return {"middle": found[2][0], "last": found[3][0]}


def plain(points: dict[str, Tensor]) -> dict[str, float]:
    found = {place: estimate(x, NAMES).without_sinks for place, x in points.items()}
    return {f"{name}_{place}": float(x[name]) for place, x in found.items() for name in NAMES}


def test_full_holds_the_states_before_the_last_token(reader: CausalReader) -> None:
    tokens = reader.tokens(windows(1)[0])
    expected = plain(states(reader, tokens.context[:-1]))
    assert dimensions("full", reader, 1.0) == pytest.approx(expected, rel=1e-4)
    assert len(expected) == 4
    assert len(set(expected.values())) == 4


def test_recency_holds_the_states_of_the_text_that_it_reads(reader: CausalReader) -> None:
    tokens = reader.tokens(windows(1)[0])
    kept = tokens.context[tokens.L - n_left(0.25, tokens.L) :]
    expected = plain({place: x[1:] for place, x in states(reader, kept).items()})
    assert dimensions("recency", reader, 0.25) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("way", ["evict.knorm", "evict.random", "evict.surprisal"])
def test_an_eviction_holds_the_whole_pass_states_of_its_entries(
    way: str, reader: CausalReader
) -> None:
    """Heads that hold different entries are averaged."""
    tokens, eviction = reader.tokens(windows(1)[0]), reading_of(way, reader, 0)
    assert isinstance(eviction, Eviction)
    with torch.inference_mode():
        whole = read_whole(reader, tokens)
        scores = eviction.look(whole, tokens, windows(1)[0]).scores
    held = held_entries(whole.cache, scores, n_left(0.25, tokens.L))
    found = states(reader, tokens.context[:-1])
    heads = [
        plain({place: found[place][held[layer][head]] for place, layer in places.items()})
        for places in ({"middle": 2, "last": 3},)
        for head in range(len(held[0]))
    ]
    expected = {name: float(np.mean([head[name] for head in heads])) for name in heads[0]}
    assert dimensions(way, reader, 0.25) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("way", ["full", "recency", "evict.streaming"])
def test_the_target_is_not_among_the_held_states(way: str, reader: CausalReader) -> None:
    reading, (given,) = reading_of(way, reader, 0), windows(1)
    n = n_held(reading, given, 0.5)
    assert measured(reading, given, 0.5) == [n, n]
    assert n > 0


def test_few_positions_have_no_dimension_and_the_table_says_so(reader: CausalReader) -> None:
    readings: dict[str, pd.DataFrame] = {}
    for way, rates in (("full", []), ("none", []), ("recency", [0.5, 0.05])):
        reading = reading_of(way, reader, 0)
        reading.measure(NAMES)
        readings[way] = read_all(reading, windows(3), rates).assign(positions="dense", flag="")
    table = Frontier(readings, "these").table().set_index(["way", "rate", "measure"])
    for name in NAMES:
        few = table.loc[("recency", 0.05, f"{name}_last")]
        assert math.isnan(few["value"])
        assert (few["n"], few["flag"]) == (0, f"of 0 of 3 windows: {TOO_FEW}")
        half = table.loc[("recency", 0.5, f"{name}_last")]
        rows = readings["recency"].query("rate == 0.5")[f"{name}_last"]
        assert half["value"] == pytest.approx(rows.mean())
        assert half["interval_low"] <= half["value"] <= half["interval_high"]
        assert (half["n"], half["flag"]) == (readings["recency"]["document"].nunique(), "")
    assert ("none", 0.0, "twoNN_mle_last") not in table.index


def test_nothing_is_measured_unless_it_is_asked_for(reader: CausalReader) -> None:
    reading = reading_of("recency", reader, 0)
    reading.measure([])
    assert reading.held is None
    assert not [c for c in read_all(reading, windows(1), [0.5]) if c.endswith("_last")]
