"""What ways must lose and keep of texts that answer questions about themselves."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
import torch

from terse.config.methods import settings_of
from terse.evaluation.frontier.reading import Reading, read_all
from terse.evaluation.frontier.scores import Frontier
from terse.evaluation.frontier.ways import reading_of
from terse.evaluation.frontier.windows import Window
from terse.methods.forgetting.decisions import Calibration
from terse.methods.forgetting.mask_registry import mask_of
from terse.methods.forgetting.model import Forgetter
from terse.methods.forgetting.reading import Forgotten
from terse.methods.forgetting.settings import ForgettingSettings
from tiny_forgetting import SETTINGS
from tiny_frontier import window
from tiny_lookups import BOS, N_KEYS, N_VALUES, asked, facts, filler, letter, lookup_reader

L, D = 160, 12  # tokens of a context, documents
GUESS = math.log(N_VALUES)  # nats of a fact that is not known


def scored(way: str | Reading, windows: Sequence[Window], *rates: float) -> pd.DataFrame:
    """Return the table of a way of the reader that looks answers up."""
    found = reading_of(way, lookup_reader(), 0) if isinstance(way, str) else way
    table = read_all(found, windows, rates)
    table["positions"], table["flag"] = found.positions, ""
    return table


def worth(table: pd.DataFrame, way: str, rate: float) -> pd.Series:
    chosen = table[(table["way"] == way) & (table["measure"] == "worth") & (table["rate"] == rate)]
    assert len(chosen) == 1
    return chosen.iloc[0]


def test_a_copy_is_worth_everything_until_recency_loses_it() -> None:
    random, after, length = np.random.default_rng(1), 60, 2 * N_KEYS
    windows = []
    for number in range(D):
        copy = asked(facts(random))
        context = filler(random, L - after - length) + copy + filler(random, after)
        windows.append(window(context, copy, number, f"d{number}"))
    lost, kept = after / L, (after + length) / L
    readings = {way: scored(way, windows) for way in ("full", "none")}
    readings["recency"] = scored("recency", windows, kept, lost)
    table = Frontier(readings, "these").table()
    assert readings["full"]["nats"].max() < 0.01
    assert readings["none"]["nats"].mean() == pytest.approx(N_KEYS * GUESS, rel=0.01)
    assert worth(table, "recency", kept)["value"] == pytest.approx(1.0, abs=0.01)
    gone = worth(table, "recency", lost)
    assert gone["value"] == pytest.approx(0.0, abs=0.01)
    difference = readings["recency"].query("rate == @lost")["nats"].to_numpy()
    assert abs(difference - readings["none"]["nats"].to_numpy()).max() < 0.01


@pytest.fixture(scope="module")
def questions() -> list[Window]:
    """One early fact among filler; its digit is asked for again and again at the end."""
    random, windows = np.random.default_rng(2), []
    for number in range(D):
        key = int(random.integers(4))
        fact = facts(random)[key]
        late = "".join(f"{filler(random, 3)}{key}" for _ in range(8))
        context = filler(random, 20) + fact
        context += filler(random, L - len(context) - len(late)) + late
        windows.append(window(context, fact, number, f"d{number}"))
    return windows


@pytest.mark.parametrize("way", ["recency", "sink_recency", "evict.streaming", "evict.tova"])
def test_an_early_fact_is_lost_by_what_keeps_the_end(way: str, questions: list[Window]) -> None:
    """TOVA looks from the last position, which is filler here: it asks for nothing."""
    nats = scored(way, questions, 0.5)["nats"]
    assert nats.to_numpy() == pytest.approx(GUESS, rel=0.01)


def test_snapkv_keeps_an_early_fact_that_is_asked_for(questions: list[Window]) -> None:
    assert scored("full", questions)["nats"].max() < 0.01
    assert scored("evict.snapkv", questions, 0.5)["nats"].max() < 0.01


def test_a_trained_mask_keeps_early_facts(questions: list[Window]) -> None:
    table = scored(trained_mask(), questions, 0.5, 0.25)
    assert table["nats"].max() < 0.01
    assert (table["positions_held"] <= table["rate"] * L).all()
    fresh = scored(trained_mask(steps=0), questions, 0.25)["nats"]
    assert fresh.mean() > 0.1 * GUESS  # it is training that keeps them


def trained_mask(steps: int = 80) -> Forgotten:
    """Return the reading of a mask that learnt on texts of 60 letters, four of them facts."""
    reader, random = lookup_reader(), np.random.default_rng(3)
    C, S, B = 61, 8, 8
    changes = {"hidden_dim": 16, "forget_p": 0.75, "context_len": C, "block_len": S}
    settings = settings_of({**SETTINGS, **changes, "train_base": "frozen"})
    assert isinstance(settings, ForgettingSettings)
    torch.manual_seed(0)
    mask = mask_of(settings, reader.lm, lambda: torch.ones(259))
    model = Forgetter(reader.lm, mask, settings, (BOS,)).train()
    optimizer = torch.optim.Adam(mask.parameters(), lr=1e-2)
    ones = torch.ones((B, C + S), dtype=torch.bool)
    is_target = torch.arange(C + S).expand(B, -1) >= C
    for _ in range(steps):
        ids = torch.tensor([[BOS, *_text(random, C - 1).encode()] for _ in range(B)])
        with torch.enable_grad():
            sums = model(input_ids=ids, attention_mask=ones, is_target=is_target)
            loss = (sums["policy"] + sums["bonus"]) / B + sums["price"] / (B * C)
            optimizer.zero_grad()
            loss.backward()
        optimizer.step()
        model.update_duals()
    ids = torch.tensor([[BOS, *_text(random, C - 1).encode()] for _ in range(64)])
    with torch.no_grad():
        logits = mask(ids, torch.ones_like(ids))
    model.calibration = Calibration.of(logits[:, 1:C], torch.ones(64, C - 1, dtype=torch.bool))
    return Forgotten(model.eval(), reader)


def _text(random: np.random.Generator, length: int) -> str:
    """Return filler with four facts at random places, then what asks for them."""
    values, letters = facts(random), list(filler(random, length))
    for place, value in zip(random.choice(length, 4, replace=False), values, strict=True):
        letters[place] = value
    return "".join(letters) + asked(values)


def test_contexts_of_other_documents_are_worth_nothing() -> None:
    random, own, other = np.random.default_rng(4), [], []
    for number in range(D):
        fact = letter(0, int(random.integers(N_VALUES)))
        elsewhere = "".join(facts(random)[1:])
        texts = [filler(random, 30) + found + filler(random, 30) for found in (fact, elsewhere)]
        for windows, context in zip((own, other), texts, strict=True):
            windows.append(window(context, f"0{fact}", number, f"d{number}"))
    readings = {"full": scored("full", own), "none": scored("none", own)}
    # Another context has another length; the table compares ways on the same windows.
    shuffled = scored("full", other).assign(context_bytes=readings["full"]["context_bytes"])
    table = Frontier({**readings, "shuffled": shuffled.assign(rate=0.9)}, "these").table()
    found = worth(table, "shuffled", 0.9)
    assert found["value"] == pytest.approx(0.0, abs=0.01)
    assert worth(table, "full", 1.0)["value"] == 1.0
