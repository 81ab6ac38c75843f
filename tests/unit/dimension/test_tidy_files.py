"""The table of dimensions on disk: the same numbers from both files, small, in parts."""

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from terse.dimension import tidy_files
from terse.dimension.tidy_files import SCHEMA, parts_of, read_ids, writing
from terse.errors import TerseError

N = 2000
WORDS = ("model", "revision", "corpus", "document", "module", "estimator", "flags")


def part(module: str, layer: int | None, document: str = 'd, "é" 東') -> pd.DataFrame:
    """Return a module's rows: numbers of all magnitudes, some undefined, awkward names."""
    random = np.random.default_rng(len(module))
    values = random.normal(size=N) * 10.0 ** random.integers(-300, 300, N)
    values[::7], values[1::7] = np.nan, np.round(values[1::7])
    words = [f"{document}{i // 3}" for i in range(N)]
    numbers = {name: values + i for i, name in enumerate(("id", "id_without_sinks", "heaviest"))}
    counts = {name: np.arange(N) for name in ("row", "chunk", "n_eff", "n_dup", "n_heavy")}
    return pd.DataFrame(
        {
            "model": "m", "revision": None, "corpus": "c", "document": pd.Categorical(words),
            "module": pd.Categorical([module] * N, ["mlp", "norm"]), "estimator": "mle",
            "layer": pd.array([layer] * N, dtype="Int64"), **numbers, **counts,
            "first_share": np.nan, "flags": pd.Categorical(["", "sink"] * (N // 2)),
            "loss_nats": values, "entropy_nats": values,
        }
    )[SCHEMA.names]  # fmt: skip


@pytest.fixture
def paths(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "ids.csv", tmp_path / "ids.parquet"


@pytest.mark.parametrize("document", ["plain", 'd, "é" 東'])
def test_numbers_come_back_to_the_same_bits(paths: tuple[Path, Path], document: str) -> None:
    parts = [part("mlp", 3, document), part("norm", None, document)]
    with writing(*paths) as append:
        for one in parts:
            append(one)
    expected = pd.concat(parts, ignore_index=True)
    for name in ("id", "id_without_sinks", "loss_nats"):
        with paths[0].open(newline="", encoding="utf-8") as file:
            text = [row[name] for row in csv.DictReader(file)]
        found = [float(number) if number else np.nan for number in text]
        np.testing.assert_array_equal(found, expected[name])  # equal bits, or both undefined
    stored = read_ids(paths[1], SCHEMA.names)
    read = pd.read_csv(
        paths[0],
        keep_default_na=False,
        na_values={name: [""] for name in SCHEMA.names if name not in WORDS},
    )
    for found in (stored, read):
        assert list(found.columns) == SCHEMA.names
        for name in SCHEMA.names:
            if name in WORDS:
                words = (found[name], expected[name])
                one, other = (column.astype(object).fillna("").tolist() for column in words)
                assert one == [str(word) if word else "" for word in other], name
            else:
                sides = (
                    column.astype("Float64").to_numpy(float, na_value=np.nan)
                    for column in (found[name], expected[name])
                )
                np.testing.assert_array_equal(*sides)


@pytest.mark.parametrize("changed", [None, "heaviest", "n_dup", "flags", "document"])
def test_what_estimators_share_is_written_as_if_they_did_not(
    paths: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, changed: str | None
) -> None:
    """Columns that repeat for each estimator are formatted once, but one that differs is not."""
    one = part("mlp", 3, "plain")
    other = one.assign(estimator="twoNN_f10", id=one["id"] + 1)
    if changed is not None:
        other[changed] = other[changed].to_numpy()[::-1]
    both = pd.concat([one, other], ignore_index=True)
    written = []
    for shared in (True, False):
        if not shared:
            monkeypatch.setattr(tidy_files, "_formatted_once", lambda table: table)
        with writing(*paths) as append:
            append(both)
        written.append(paths[0].read_bytes())
    assert written[0] == written[1]
    assert written[0].count(b"\n") == 2 * N + 1


def test_rows_come_back_in_parts_and_in_order(
    paths: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tidy_files, "_ROWS", N)
    with writing(*paths) as append:
        for layer in range(3):
            append(part("mlp", layer))
    parts = list(parts_of(paths[1], ["layer", "row"]))
    assert [len(one) for one in parts] == [N, N, N]
    assert [set(one["layer"]) for one in parts] == [{0}, {1}, {2}]
    assert parts[2]["row"].tolist() == list(range(N))


def test_what_repeats_for_each_estimator_takes_no_room(paths: tuple[Path, Path]) -> None:
    one, sizes = part("mlp", 3).assign(id=1.5, id_without_sinks=1.5), []
    for names in ("a", "abcdefg"):
        with writing(*paths) as append:
            for name in names:
                append(one.assign(estimator=name))
        sizes.append(paths[1].stat().st_size)
    assert sizes[1] < 1.5 * sizes[0]


def test_another_file_is_refused(paths: tuple[Path, Path]) -> None:
    paths[1].write_text("model,id\n")
    with pytest.raises(TerseError, match=r"ids\.parquet is not a table of dimensions"):
        read_ids(paths[1], ["id"])
    with pytest.raises(TerseError, match=r"ids\.parquet is not a table of dimensions"):
        list(parts_of(paths[1], ["id"]))
