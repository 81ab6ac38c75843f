"""Rows hold every byte once and read no more than they need."""

from pathlib import Path
from typing import Any

import pytest
import torch

from terse.corpora.token_store import TokenStore
from terse.errors import TerseError
from terse.methods.hierarchical.rows import ByteRows, ScoringRows, byte_store
from terse.methods.hierarchical.settings import BOS, EOS, PAD
from terse.training.method import Inputs


def test_rows_hold_every_byte_once(text: Inputs) -> None:
    assert text.tokens is not None
    store = TokenStore(text.tokens, "train")
    packed = ByteRows(store, 50)
    joined = torch.cat([packed[i]["ids"][1:] for i in range(len(packed))])
    expected: list[int] = []
    for d in range(len(store)):
        expected += [BOS, *store.document(d).tolist(), EOS]
    assert joined[joined != PAD].tolist() == expected[1:]
    assert all(packed[i]["ids"][0] == BOS for i in range(len(packed)))
    for context in (0, 24):
        scored = ScoringRows(store, 50, context=context)
        texts: dict[int, list[int]] = {}
        for i in range(len(scored)):
            row = scored[i]
            targets = row["ids"][row["first"] :]
            found = targets[targets < BOS].tolist()
            assert len(found) == row["n_bytes"]
            texts.setdefault(row["document"], []).extend(found)
        assert all(texts[d] == store.document(d).tolist() for d in range(len(store)))


def test_a_row_reads_no_more_than_its_own_bytes(text: Inputs) -> None:
    assert text.tokens is not None
    store, read = TokenStore(text.tokens, "train"), []
    tokens = store.windows

    class Watched:
        def __getitem__(self, piece: slice) -> Any:
            read.append(int(piece.stop - piece.start))
            return tokens[piece]

    vars(store)["windows"] = Watched()
    packed = ByteRows(store, 50)
    for i in range(len(packed)):
        packed[i]
    assert sum(read) == int(store.offsets[-1])


def test_other_tokens_than_bytes_are_refused(tmp_path: Path) -> None:
    from tiny_compression import make_inputs

    inputs = make_inputs(tmp_path)
    assert inputs.tokens is not None
    with pytest.raises(TerseError, match="are not bytes"):
        byte_store(inputs.tokens, "train")
