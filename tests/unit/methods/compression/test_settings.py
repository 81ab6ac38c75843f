"""Contradictions are refused; the names of the original are known."""

from typing import Any

import pytest

from tiny_compression import SETTINGS


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"base": None}, "compression needs a base"),
        ({"seq_len": 8}, "leaves nothing to predict after 8 compressed tokens"),
        ({"n_spans": 2}, "leaves nothing to predict after 16"),
        ({"seq_overlap": 9}, "allowed: 0 to 8"),
        ({"csl_task": True}, "trains nothing without train_embs or train_lmhead"),
        ({"rmb_only": True, "kl_scale": 1.0}, "leave kl_scale out"),
        ({"n_train_loops": 2}, "n_train_loops, the steps of an epoch, needs n_epochs"),
        ({"n_epochs": 2, "n_train_loops": 5}, "is not n_epochs x n_train_loops = 10"),
        ({"tokenizer": "t"}, "tokenizer is the base's"),
        ({"cmp_layer": "middle"}, "cmp_layer"),
    ],
)
def test_contradictions_are_refused(changes: dict[str, Any], words: str) -> None:
    from pydantic import ValidationError

    from terse.config.methods import settings_of

    with pytest.raises(ValidationError, match=words):
        settings_of(SETTINGS | changes)


def test_names_that_users_of_the_original_know() -> None:
    from terse.config.methods import settings_of

    known: dict[str, Any] = {
        "method": "compression", "model_string": "base", "dataset": "c", "rmb_rask": True,
        "n_epochs": 3, "n_train_loops": 7, "checkpt_mod": 5, "seq_len": 20,
        "seq_len_counts": "after", "checkpoint_steps": [],
    }  # fmt: skip
    settings: Any = settings_of(known)
    assert (settings.base, settings.corpus, settings.rmb_task) == ("base", "c", True)
    assert (settings.max_steps, settings.checkpoint_steps) == (21, [5, 10, 15, 20])
    assert (settings.n_context, settings.n_forward) == (10, 20)
    total = settings_of({**known, "seq_len_counts": "total"})
    assert total.n_forward == 10  # type: ignore[attr-defined]
