"""Cached codes equal those of the model that made them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from terse.corpora.token_store import TokenStore
from terse.errors import TerseError
from terse.methods.hierarchical.codes import CodedRows, collated, encode_corpus
from terse.methods.hierarchical.method import Hierarchical
from terse.methods.hierarchical.rows import ByteRows
from terse.methods.hierarchical.storage import load_hierarchical
from terse.training.method import Inputs
from tiny_hierarchical import LEVELS, settings


def test_cached_codes_equal_those_of_the_model(second: Hierarchical, stage1: Path) -> None:
    model = load_hierarchical(stage1 / "model")
    cached: Any = second.training_rows()
    assert isinstance(cached, CodedRows)
    chosen = [cached[i] for i in (0, 3, len(cached) - 1)]
    batch = collated(chosen)
    online = model.encode(batch["ids"])
    opens, codes = ([batch[f"{key}{i}"] for i in (0, 1)] for key in ("opens", "codes"))
    for ours, theirs in zip(model.restored(batch["ids"], opens, codes), online, strict=True):
        assert torch.equal(ours.n, theirs.n)
        assert torch.equal(ours.codes[ours.real], theirs.codes[theirs.real])
        assert torch.equal(ours.rows[ours.real], theirs.rows[theirs.real])
        mask = theirs.sequence.mask
        assert torch.equal(ours.segment[mask], theirs.segment[mask])
    both: Any = second.build().eval()
    with torch.no_grad():
        from_cache = both(**batch)
        states = both.top(online[-1].rows)
        expected = both._top_losses(online, states)
    for name, value in from_cache.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-3)


def test_fewer_rows_are_read_evenly_and_encoded_alone(
    second: Hierarchical, text: Inputs, stage1: Path, tmp_path: Path
) -> None:
    assert text.tokens is not None
    store = TokenStore(text.tokens, "train")
    every, few = ByteRows(store, 32), ByteRows(store, 32, limit=5)
    assert len(every) > 10
    at = [i * len(every) // 5 for i in range(5)]
    assert [few[i]["ids"].tolist() for i in range(5)] == [every[i]["ids"].tolist() for i in at]
    assert len(ByteRows(store, 32, limit=10**6)) == len(every)
    codes = tmp_path / "codes.h5"
    encode_corpus(load_hierarchical(stage1 / "model"), text.tokens, codes,
                  device="cpu", batch_size=2, train_rows=5)  # fmt: skip
    whole, found = (
        second.training_rows(),
        settings(*LEVELS, base="stage1", tokenizer=None, train_rows=5),
    )
    part = Hierarchical(found, replace(second.inputs, codes=codes))
    rows = part.training_rows()
    assert len(rows) == 5  # type: ignore[arg-type]
    for i in range(5):
        for name, value in rows[i].items():
            assert torch.equal(value, whole[at[i]][name])
    assert len(part.validation_rows()) == len(second.validation_rows())  # type: ignore[arg-type]
    with pytest.raises(TerseError, match="another number of rows"):
        Hierarchical(second.settings, part.inputs).training_rows()
