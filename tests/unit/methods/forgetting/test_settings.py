"""Contradictions, derived keys, and what trains nothing again."""

from typing import Any

import pytest
from pydantic import ValidationError

from terse.config.methods import settings_of
from terse.methods.forgetting.spec import FORGETTING
from tiny_forgetting import SETTINGS


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"base": None}, "needs a base and a corpus, or a task"),
        ({"task": "filler"}, "a task makes its own text and model: leave base out"),
        ({"exploration_epochs": [True]}, "schedule reinforce takes exploration_epochs as numbers"),
        ({"schedule": "two_step"}, "schedule two_step takes exploration_epochs as booleans"),
        ({"exploration_epochs": [1.5]}, "outside 0..1"),
        ({"exploration_epochs": [1.0, 0.0], "train_base": "frozen"}, "which is frozen"),
        ({"mask": "rnn", "bidirectional": True, "mode": "kv"}, "mask rnn looks ahead"),
        ({"decide": "topk", "mode": "kv"}, "looks ahead"),
        ({"keep_recent": 0.5, "mode": "kv"}, "looks ahead"),
        ({"keep_recent": 0.5, "mask": "norm", "hidden_dim": 512}, "keep_recent does not go with"),
        ({"keep_recent": 1.0}, "keep_recent"),
        ({"kernel_size": 5}, "kernel_size does not go with mask mlp"),
        ({"mask": "random", "hidden_dim": 512, "train_base": "frozen"}, "leaves nothing to train"),
        ({"n_train_loops": 4}, "max_steps 6 is not n_train_loops x epochs = 8"),
        ({"grad": "saliency", "mode": "pack"}, "needs mode prefix or kv"),
        ({"tokenizer": "t"}, "tokenizer is the base's"),
        ({"mask": "rn"}, "mask"),
    ],
)
def test_contradictions_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        settings_of(SETTINGS | changes)


def test_steps_and_warm_up_follow() -> None:
    plain = {k: v for k, v in SETTINGS.items() if k not in ("max_steps", "lr")}
    settings: Any = settings_of({**plain, "n_train_loops": 50, "learning_rate": 0.01})
    assert (settings.max_steps, settings.warmup_steps, settings.lr) == (100, 5, 0.01)
    assert settings_of({**plain, "max_steps": 100, "warmup_steps": 0}).warmup_steps == 0


def test_what_only_the_report_reads_trains_nothing_again() -> None:
    def weight_params(**changes: Any) -> dict[str, Any]:
        settings: Any = settings_of(SETTINGS | changes)
        return FORGETTING.weight_params(settings)

    for key, value in {"eval_rates": [0.9], "eval_windows": 7, "n_samples": 0}.items():
        assert weight_params(**{key: value}) == weight_params()
    assert weight_params(eval_interval=2) != weight_params()


def test_rollouts_count_in_the_time_limit() -> None:
    windows = 28  # tokens: one pass forwards and backwards, three forwards
    learned: Any = settings_of(SETTINGS)
    random: Any = settings_of(SETTINGS | {"mask": "random", "hidden_dim": 512})
    assert FORGETTING.tokens_per_row(learned) == 2 * windows
    assert FORGETTING.tokens_per_row(random) == windows
