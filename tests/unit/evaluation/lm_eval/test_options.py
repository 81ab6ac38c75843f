"""Generation options of a task: the library's names; what cannot be done is named."""

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from torch import Tensor

from terse.errors import TerseError
from terse.evaluation.lm_eval.causal_text import CausalText
from terse.evaluation.lm_eval.options import greedy_options
from tiny_asking import ask


class Counting(CausalText):
    """Writes the digits over and over."""

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, symbols: list[int]) -> str:
        return bytes(symbols).decode()

    def window(self, place: int) -> tuple[int, int]:
        return 0, 1000

    def score(self, rows: list[list[int]]) -> list[tuple[Tensor, Tensor]]:
        raise NotImplementedError

    def write(self, symbols: list[int]) -> Iterator[int]:
        return itertools.cycle(b"0123456789")


LONGEST = [
    ({"max_gen_toks": 4}, 4), ({"max_new_tokens": 4}, 4), ({"max_tokens": 4}, 4),
    ({"max_completion_tokens": 4}, 4), ({"max_gen_toks": 0}, 0), ({}, 256), ({"until": None}, 256),
    ({"max_tokens": 7, "max_new_tokens": 5}, 5), ({"max_new_tokens": 5, "max_gen_toks": 3}, 3),
    ({"max_gen_toks": None, "max_tokens": 6}, 6), ({"max_gen_toks": 20, "until": "45"}, 4),
    ({"max_gen_toks": 20, "until": ["", "6", "3"]}, 3),
    ({"max_gen_toks": 4, "do_sample": False, "temperature": 0.7}, 4),
    ({"max_gen_toks": 4, "do_sample": False, "temperature": 0.0, "top_p": 0.9}, 4),
    ({"max_gen_toks": 4, "temperature": None, "num_beams": 1, "repetition_penalty": 1.0}, 4),
]  # fmt: skip


@pytest.mark.parametrize(("options", "n"), LONGEST)
def test_as_many_symbols_as_asked_for(options: dict[str, Any], n: int) -> None:
    assert ask(Counting(), "generate_until", ("a", options)) == [("0123456789" * 26)[:n]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 4}, "num_beams: 4"),
        ({"repetition_penalty": 1.2}, "repetition_penalty: 1.2"),
        ({"max_length": 30}, "max_length: 30"), ({"do_sample": True}, "generates greedily"),
        ({"temperature": 0.7}, "generates greedily"), ({"max_gen_toks": -1}, "max_gen_toks is -1"),
        ({"max_gen_toks": "many"}, "many"), ({"bad_words_ids": [[1]]}, "bad_words_ids"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(TerseError, match=message):
        ask(Counting(), "generate_until", ("a", options))


def test_what_is_void_is_named(caplog: pytest.LogCaptureFixture) -> None:
    given = {"do_sample": False, "top_p": 0.9, "temperature": 0.7, "until": ["a"]}
    assert greedy_options(given).stops == ["a"]
    assert "ignores a task's temperature, top_p" in caplog.text
    assert given["temperature"] == 0.7
