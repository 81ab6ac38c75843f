"""Which tokens are compressed and which are predicted."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from terse.corpora.token_store import TokenStore
from terse.errors import TerseError
from terse.methods.compression.rows import (
    AllWindows,
    Lengths,
    RandomWindows,
    listed_windows,
    training_windows,
)

SIZES = [3, 40, 7, 8, 9, 25, 0, 12]


def write_tokens(path: Path, sizes: list[int], metadata: list[str] | None = None) -> Path:
    """Write a tokens file: token i of document d is 100 d + i + 1, two bytes each."""
    tokens = np.concatenate([100 * d + np.arange(size) + 1 for d, size in enumerate(sizes)])
    ends = np.concatenate([2 * np.arange(size) + 2 for size in sizes])
    with h5py.File(path, "w") as file:
        file.attrs.update(
            fingerprint="f", tokenizer_digest="t", vocab_size=10_000, bos_id=0, eos_id=0,
            complete=True,
        )  # fmt: skip
        for split in ("train", "validation"):
            group = file.create_group(split)
            group["tokens"], group["byte_ends"] = tokens.astype("i4"), ends.astype("i4")
            group["offsets"] = np.concatenate([[0], np.cumsum(sizes)])
            group["n_bytes"] = 2 * np.array(sizes)
            group["id"] = [f"d{d}" for d in range(len(sizes))]
            group["metadata"] = metadata or ["{}"] * len(sizes)
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokens(tmp_path_factory.mktemp("windows") / "tokens.h5", SIZES)


def test_random_windows_stay_in_their_document_and_cover_every_place(path: Path) -> None:
    lengths = Lengths(context=4, new=5)
    windows = RandomWindows(TokenStore(path), lengths, seed=1, n_rows=3000)
    seen = set()
    for i in range(len(windows)):
        item = windows[i]
        d, first = item["document"], int(item["context"][0]) % 100 - 1
        seen.add((d, first))
        real = int(item["target_mask"].sum())
        assert real == min(5, SIZES[d] - first - 4) >= 1
        expected = 100 * d + first + 1 + np.arange(4 + real)
        np.testing.assert_array_equal(
            np.concatenate([item["context"], item["target"][:real]]), expected
        )
        assert item["target_bytes"] == 2 * real
        assert (item["is_new"] == item["target_mask"]).all()
        assert (item["target"][real:] == 0).all()
    places = {(d, s) for d, n in enumerate(SIZES) if n >= 5 for s in range(max(1, n - 9 + 1))}
    assert seen == places


def test_random_windows_are_a_function_of_seed_and_index(path: Path) -> None:
    def drawn(seed: int, n_rows: int) -> list[int]:
        windows = RandomWindows(TokenStore(path), Lengths(4, 5), seed=seed, n_rows=n_rows)
        return [int(windows[i]["context"][0]) for i in range(n_rows)]

    assert drawn(3, 50) == drawn(3, 80)[:50]
    assert drawn(3, 50) != drawn(4, 50)


@given(st.integers(1, 9), st.integers(0, 9))
def test_all_windows_score_each_token_at_most_once_and_leave_no_window_out(k: int, n: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = write_tokens(Path(folder) / "t.h5", SIZES)
        windows = AllWindows(TokenStore(path, "validation"), Lengths(k, n))
        targets: list[int] = []
        for i in range(len(windows)):
            item = windows[i]
            targets += item["target"][item["is_new"].bool()].tolist()
    assert len(targets) == len(set(targets))
    stride = k + n
    expected = [
        100 * d + 1 + t
        for d, size in enumerate(SIZES)
        for start in range(0, size, stride)
        if size - start >= k + min(n, 1)
        for t in (range(start + k, min(start + stride, size)) if n else range(start, start + k))
    ]
    assert targets == expected


def test_overlap_repeats_the_end_of_the_context(path: Path) -> None:
    item = AllWindows(TokenStore(path), Lengths(context=4, new=3, overlap=2))[0]
    assert item["context"].tolist() == [101, 102, 103, 104]
    assert item["target"].tolist() == [103, 104, 105, 106, 107]
    assert item["is_new"].tolist() == [0, 0, 1, 1, 1]
    assert item["target_mask"].tolist() == [1] * 5
    assert item["target_bytes"] == 6


def test_without_new_tokens_the_context_is_the_target(path: Path) -> None:
    item = AllWindows(TokenStore(path), Lengths(context=6, new=0))[0]
    assert item["target"].tolist() == item["context"].tolist() == list(range(101, 107))
    assert item["target_bytes"] == 12


def test_a_limit_spreads_the_windows(path: Path) -> None:
    store = TokenStore(path, "validation")
    everything = AllWindows(store, Lengths(2, 2))
    some = AllWindows(store, Lengths(2, 2), limit=5)
    n = len(everything)
    assert some.places == [everything.places[i * n // 5] for i in range(5)]
    assert {place[0] for place in some.places} >= {1, 4, 5}


def test_pairs_are_split_where_the_first_text_ends(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    firsts = [6, 20, 4, 24]  # bytes, two a token: 3, 10, 2 and 12 tokens
    metadata = [json.dumps({"first_bytes": first}) for first in firsts]
    path = write_tokens(tmp_path / "pairs.h5", [5, 14, 9, 12], metadata)
    windows = listed_windows(path, "validation", Lengths(context=10, new=4))
    assert windows.places == [(0, 3, 5), (1, 10, 14)]  # the third is too long, the last has no end
    item = windows[0]
    assert item["context"].tolist() == [0] * 7 + [1, 2, 3]
    assert item["context_mask"].tolist() == [0] * 7 + [1] * 3
    assert item["target"].tolist() == [4, 5, 0, 0]
    assert item["target_bytes"] == 4
    assert "left out 2 of 4 pairs of the validation split" in caplog.text
    assert len(training_windows(path, Lengths(10, 4), seed=0, n_rows=99)) == 2
    with pytest.raises(TerseError, match=r"no pair of the validation split fits 1 \+ 1 tokens"):
        listed_windows(path, "validation", Lengths(1, 1))


def test_documents_that_are_all_too_short_are_refused(path: Path) -> None:
    with pytest.raises(TerseError, match="has no document of 41 tokens; lower cmp_len"):
        training_windows(path, Lengths(40, 5), seed=0, n_rows=2)
    with pytest.raises(TerseError, match="has no document of 50 tokens"):
        listed_windows(path, "validation", Lengths(50, 0))


def test_a_corpus_of_pairs_from_its_records_to_its_windows(tmp_path: Path) -> None:
    from terse.corpora.documents import write_documents
    from terse.corpora.tokenizers import train_bpe
    from terse.corpora.tokens import tokenize_documents
    from terse.settings.corpora import Corpus

    rows = [
        {"sentence1": f"The {w} sat – on the mat {i}.", "sentence2": f"A {w} was there {i}."}
        for i, w in enumerate(["cat", "dog", "señor", "fox"] * 10)
    ]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)))
    corpus = Corpus(
        source="jsonl", path=str(tmp_path / "p.jsonl"), text_column="sentence1",
        second_column="sentence2", validation_fraction=0.3,
    )  # fmt: skip
    write_documents(corpus, tmp_path / "d.parquet")
    tokenizer = train_bpe(tmp_path / "d.parquet", vocab_size=300, seed=0, folder=tmp_path / "t")
    tokenize_documents(tmp_path / "d.parquet", tokenizer, tmp_path / "tokens.h5")
    found = []
    for windows in (
        training_windows(tmp_path / "tokens.h5", Lengths(60, 60), seed=0, n_rows=1),
        listed_windows(tmp_path / "tokens.h5", "validation", Lengths(60, 60)),
    ):
        for i in range(len(windows)):
            item = windows[i]
            context = item["context"][item["context_mask"].bool()]
            target = item["target"][item["target_mask"].bool()]
            texts = (tokenizer.decode(context), tokenizer.decode(target))
            assert item["target_bytes"] == len(texts[1].encode())
            found.append(texts)
    assert sorted(found) == sorted((f"{r['sentence1']}\n", r["sentence2"]) for r in rows)
