"""Evictions that share a pass: the same tables as those of each way alone."""

from typing import Any

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from terse.errors import TerseError
from terse.evaluation.frontier import eviction
from terse.evaluation.frontier.eviction import Evicted
from terse.evaluation.frontier.reader import CausalReader
from terse.evaluation.frontier.reading import read_or_why
from terse.evaluation.frontier.scores import of_each_way
from terse.evaluation.frontier.together import read_evictions_or_why
from terse.evaluation.frontier.ways import reading_of
from terse.evaluation.frontier.windows import dealt
from terse.machine.signals import Stopped
from terse.settings.frontier import EVICT, own_ways
from tiny_frontier import causal_reader, windows

WAYS = [way for way in own_ways() if way.startswith(EVICT)]
RATES, NAMES = [0.5, 0.25], ["participation_ratio"]


def together(ways: list[str], given: Any = None, **changes: Any) -> dict[str, pd.DataFrame]:
    options: dict[str, Any] = {"load": causal_reader, "estimators": NAMES, "rates": RATES} | changes
    load, rates = options.pop("load"), options.pop("rates")
    table = read_evictions_or_why(load, ways, given or windows(3), rates, **options)
    return of_each_way([table])


@pytest.mark.parametrize(
    "held", [10**6, 300, 1]
)  # of a pass: one with all rows, some, one for each
def test_each_way_is_as_if_it_were_alone(monkeypatch: pytest.MonkeyPatch, held: int) -> None:
    monkeypatch.setattr(eviction, "PASS_POSITIONS", held)
    rates = [1, *RATES, 0]
    found = together(WAYS, rates=rates)
    assert list(found) == WAYS
    for way, table in found.items():
        alone = read_or_why(
            lambda way=way: reading_of(way, causal_reader(), 0), windows(3), rates, NAMES
        )
        exact = [c for c in alone.columns if c != "nats"]
        assert_frame_equal(table[exact], alone[exact], check_like=True, check_exact=True)
        ends = alone["rate"].isin([0, 1])  # these are read alone, too
        assert (table["nats"] == alone["nats"])[ends].all()
        assert table["nats"].to_numpy() == pytest.approx(alone["nats"].to_numpy(), rel=1e-5)


def test_all_ways_share_their_passes() -> None:
    """One over the context; one over the target, with a row for each way and rate."""
    passes: list[tuple[int, ...]] = []

    def load() -> CausalReader:
        reader = causal_reader()
        reader.bytes_per_position  # noqa: B018 - it runs a short pass once
        reader.flops.total(2)
        reader.lm.base_model.register_forward_pre_hook(
            lambda _, args, kwargs: passes.append(kwargs["input_ids"].shape), with_kwargs=True
        )
        return reader

    together(["evict.knorm", "evict.snapkv", "evict.tova"], windows(2), load=load)
    tokens = [causal_reader().tokens(window) for window in windows(2)]
    wanted = [size for t in tokens for size in ((1, t.L), (3 * len(RATES), t.m))]
    lengths = {length for _, length in wanted}  # others are short ones that look at the reader
    assert [tuple(size) for size in passes if size[1] in lengths] == wanted


def test_parts_of_the_windows_make_the_same_tables() -> None:
    ways, given = ["evict.knorm", "evict.random"], windows(5)
    parts = [
        read_evictions_or_why(causal_reader, ways, dealt(given, part, 3), RATES)
        for part in range(3)
    ]
    whole = together(ways, given, estimators=())
    for way, table in of_each_way(parts).items():
        assert_frame_equal(table, whole[way], check_exact=True)
    with pytest.raises(TerseError, match=r"part 3 of the windows: allowed: 0 to 2"):
        dealt(given, 3, 3)


def test_a_way_that_fails_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the second window, and one that can't be made at all."""
    score, n = Evicted.look, 0

    def fails(self: Evicted, *given: Any) -> Any:
        nonlocal n
        n += 1
        if n == 3:  # the second window of the first of two ways
            raise ValueError("no more")
        return score(self, *given)

    monkeypatch.setattr(Evicted, "look", fails)
    found = together(["evict.knorm", "evict.keydiff", "evict.unheard"])
    assert found["evict.knorm"]["flag"].tolist() == ["ValueError: no more"]
    assert found["evict.knorm"]["nats"].isna().all()
    assert found["evict.unheard"]["nats"].isna().all()
    assert "unknown way" in found["evict.unheard"]["flag"][0]
    assert found["evict.keydiff"]["nats"].notna().all()
    assert len(found["evict.keydiff"]) == 6


def test_a_failure_in_one_part_is_one_of_the_way() -> None:
    given, ways = windows(4), ["evict.knorm", "evict.snapkv"]
    short = windows(4, context=60)[:2]  # snapkv needs more than 64
    parts = [read_evictions_or_why(causal_reader, ways, part, RATES) for part in (given[2:], short)]
    found = of_each_way(parts)
    assert len(found["evict.snapkv"]) == 1
    assert "snapkv looks from the last 64" in found["evict.snapkv"]["flag"][0]
    assert len(found["evict.knorm"]) == 8


def test_a_way_keeps_its_own_reason_when_what_all_share_fails_later() -> None:
    long = windows(1, context=2000)  # more tokens than the model has positions
    found = together(["evict.unheard", "evict.tova"], [*windows(1), *long])
    assert "unknown way" in found["evict.unheard"]["flag"][0]
    assert "512 positions" in found["evict.tova"]["flag"][0]


def test_a_pass_over_the_target_that_fails_says_so_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(*given: Any) -> Any:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(CausalReader, "read_after_each", no_room)
    found = together(["evict.knorm", "evict.tova"])
    assert [table["flag"].tolist() for table in found.values()] == [
        ["RuntimeError: out of memory"]
    ] * 2


def test_what_all_share_fails_for_all_and_a_signal_stops() -> None:
    def broken() -> CausalReader:
        raise TerseError("no weights here")

    found = together(["evict.knorm", "evict.tova"], load=broken)
    assert [table["flag"][0] for table in found.values()] == ["no weights here"] * 2

    def stopped() -> CausalReader:
        raise Stopped("SIGTERM")

    with pytest.raises(Stopped):
        together(["evict.knorm"], load=stopped)
