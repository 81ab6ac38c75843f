"""Which answers count, votes, and draws that can be repeated."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from terse.corpora.arithmetic.characters import EOS, NULL, PAD, decode, encode
from terse.corpora.arithmetic.expressions import read
from terse.methods.blotching import answers as answering
from terse.methods.blotching.answers import Request, answers, judge, vote
from terse.methods.blotching.chains import chain_of
from tiny_blotching import evaluated


def test_an_answer_is_what_was_written_up_to_eos() -> None:
    problem = read("1+12")
    chain = chain_of(problem)  # 1+12=2+1+10=3+10=13

    def judged(text: str, ended: bool = True) -> dict[str, Any]:
        tokens = np.concatenate([encode(text), [EOS, 0, 0] if ended else []]).astype(int)
        return judge(tokens, problem, chain)

    right = judged("2+1+10=3+10=13")
    assert (right["is_right"], right["n_valid"], right["n_statements"]) == (True, 3, 3)
    assert right["n_tokens"] == right["gold_tokens"] == len("2+1+10=3+10=13") + 1
    assert right["gold_steps"] == 2
    wrong = judged("2+1+10=4+10=14")
    assert (wrong["is_right"], wrong["n_valid"], wrong["answer"]) == (False, 1, "14")
    lucky = judged("9=13")
    assert (lucky["is_right"], lucky["n_valid"]) == (True, 1)
    for text, ended in (("13", False), ("13=", True), ("3+10", True), ("013", True)):
        assert not judged(text, ended)["is_right"], text
    for hole in (PAD, NULL):
        tokens = np.array([*encode("2+1+10=1"), hole, *encode("3"), EOS, PAD])
        row = judge(tokens, problem, chain)
        assert (row["is_right"], row["n_valid"], row["n_tokens"]) == (False, 1, 11)
    assert decode(chain.tokens) == "1+12=2+1+10=3+10=13"


def test_the_commonest_answer_wins_and_the_first_of_equals() -> None:
    def table(*answers: str) -> pd.DataFrame:
        ended = [not a.endswith("?") for a in answers]
        answers = tuple(a.rstrip("?") for a in answers)
        right = [a == "7" and e for a, e in zip(answers, ended, strict=True)]
        return pd.DataFrame({"answer": answers, "ended": ended, "is_right": right})

    votes = [
        table("7", "1", "7", "3", "7?", "1?"), table("7", "7", "1", "7", "7?", "1?"),
        table("1", "7", "2", "3?", "1?", "7"),
    ]  # fmt: skip
    assert vote(votes).tolist() == [True, True, True, False, False, True]


@pytest.mark.parametrize("posenc", ["RandSinPositionalEncoding", "RotaryPositionalEncoding"])
def test_draws_differ_and_each_comes_back(posenc: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method, e = evaluated(arm="vanilla", posenc_type=posenc)
    seen: list[np.ndarray] = []
    generate = answering.generate

    def noted(model: Any, prompts: Any, positions: np.ndarray, *rest: Any, **options: Any) -> Any:
        seen.append(positions)
        return generate(model, prompts, positions, *rest, **options)

    monkeypatch.setattr(answering, "generate", noted)
    assert method.arithmetic is not None
    problems = method.arithmetic.problems.validation
    written = [
        list(answers(e.model, e.layout, problems, e.chains, request)["written"])
        for request in (
            Request("validation", None, 1.0, draw=0),
            Request("validation", None, 1.0, draw=1),
            Request("validation", None, 1.0, draw=1),
        )
    ]
    assert written[0] != written[1] == written[2]
    places = np.concatenate(seen[:4])  # two batches for each draw
    assert len({tuple(line) for line in places}) == (12 if posenc.startswith("Rand") else 1)
