"""A way of reading from an installed package: found, checked, scored, and reported if unusable."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from terse.config import load
from terse.config.ways import known_ways, make_reading
from terse.errors import TerseError
from terse.evaluation.frontier.reading import read_all
from terse.evaluation.frontier.ways import reading_of
from terse.training.method import Inputs
from tiny_frontier import bpe, causal_reader, windows

CONFIG = {
    "corpora": {"docs": {"source": "python-docs"}},
    "tokenizers": {"bpe": {"corpus": "docs"}},
    "runs": {"base": {"method": "causal-lm", "corpus": "docs", "tokenizer": "bpe", "max_steps": 5}},
}


def study(*ways: str) -> dict[str, object]:
    """Return a configuration with a study of these ways."""
    return {**CONFIG, "frontier": {"s": {"corpus": "docs", "reader": "base", "ways": [*ways]}}}


# The first tokens instead of the last ones.
WAY = """
import torch
from terse.evaluation.frontier.anew import Anew
from terse.evaluation.frontier.choices import Choice

class Earliest(Choice):
    def look(self, reader, tokens, window):
        return -torch.arange(tokens.L).float()

def reading(reader):
    return Anew(reader, Earliest())

def other(reader):
    return 3
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder as pip makes it, on the path: a package with three entry points."""
    folder = tmp_path / "site"
    info = folder / "earliest_terse-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "earliest_terse.py").write_text(WAY)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: earliest-terse\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[terse.readings]\nearliest = earliest_terse:reading\nwrong = earliest_terse:other\n"
        "missing = earliest_terse:nothing\n"
    )
    monkeypatch.syspath_prepend(folder)
    known_ways.cache_clear()  # as a new process would know it
    yield folder
    known_ways.cache_clear()


@pytest.mark.usefixtures("install")
def test_a_way_of_another_package_is_checked_and_scored(tmp_path: Path) -> None:
    assert load(study("earliest", "recency")).frontier["s"].ways == ["earliest", "recency"]
    assert "earliest" in known_ways()
    reader = causal_reader()
    reader.lm.save_pretrained(tmp_path / "model")
    bpe().save_pretrained(tmp_path / "model")
    way = make_reading(
        "earliest", tmp_path / "model", run=None, inputs=Inputs(), loading={}, seed=0, device="cpu"
    )
    tables = [read_all(one, windows(2), [1.0, 0.25]) for one in (way, reading_of("full", reader, 0),
              reading_of("recency", reader, 0))]  # fmt: skip
    first, full, last = (table.set_index("rate")["nats"] for table in tables)
    assert first[1.0].to_numpy() == pytest.approx(full.to_numpy(), rel=1e-5)
    assert abs(first[0.25] - last[0.25]).min() > 1e-3  # it reads another part
    assert (tables[0]["positions_held"] == tables[2]["positions_held"]).all()


@pytest.mark.usefixtures("install")
@pytest.mark.parametrize(
    ("way", "words"),
    [
        ("missing", r"does not load \(AttributeError: .*nothing"),
        ("wrong", "is not a Reading but 3"),
    ],
)
def test_a_way_that_cannot_be_used_is_one_line(way: str, words: str) -> None:
    with pytest.raises(TerseError, match=rf"the way {way} at earliest_terse:\w+ {words}") as raised:
        reading_of(way, causal_reader(), 0)
    assert "\n" not in str(raised.value)


def test_an_unknown_way_of_a_study_names_the_nearest() -> None:
    with pytest.raises(TerseError, match=r"frontier\.s\.ways: unknown way 'recancy'.*'recency'"):
        load(study("recancy"))
