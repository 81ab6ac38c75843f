"""Losses, answers and tables of the method `blotching` against naive ones."""

from collections import Counter
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from terse.corpora.arithmetic.expressions import value
from terse.methods.blotching import answers as answering
from terse.methods.blotching.answers import Request, answers
from terse.methods.blotching.evaluation import Evaluation, chance, score
from terse.methods.blotching.losses import chain_losses
from terse.methods.blotching.method import Blotching
from terse.methods.blotching.rows import IGNORED, RequestedRows
from terse.methods.blotching.tables import answers_table, length_table
from tiny_blotching import blotching, built

SMALL = {"max_num": 15, "max_ents": 2, "n_val_problems": 6, "n_layers": 1, "val_batch_size": 4}


def evaluated(**changes: Any) -> tuple[Blotching, Evaluation]:
    method = blotching(**(SMALL | changes))
    chains = method.validation_chains
    return method, Evaluation(built(method), method.layout, chains, method.arithmetic)


@pytest.mark.parametrize("incl_intl_prob", [False, True])
@pytest.mark.parametrize(("arm", "p"), [("vanilla", 0.0), ("intensity", 0.5)])
def test_losses_are_those_of_each_chain_by_itself(arm: str, p: float, incl_intl_prob: bool) -> None:
    method, e = evaluated(arm=arm, incl_intl_prob=incl_intl_prob)
    found = chain_losses(e.model, e.layout, e.chains, p)
    rows = RequestedRows(e.chains, e.layout, p)
    for i, chain in enumerate(e.chains):
        batch = method.collate([rows[i]])
        labels = batch.pop("labels")[0]
        with torch.no_grad():
            scores = e.model(**batch)[0].log_softmax(-1)
        chosen = labels != IGNORED
        nats = -scores[chosen].gather(1, labels[chosen][:, None])[:, 0]
        n_answer = int((chain.steps == chain.steps[-1]).sum())
        first = int((chain.steps > 0).argmax())
        n_original = len(chain.tokens) - (first if not incl_intl_prob else arm == "vanilla")
        expected = {
            "nats": nats.sum(), "answer_nats": nats[-n_answer:].sum(), "n_answer": n_answer,
            "n_targets": len(nats), "n_original": n_original, "n_kept": len(labels),
        }  # fmt: skip
        for name, number in expected.items():
            assert found[name].iloc[i] == pytest.approx(float(number), rel=1e-4), name
    measures = {(m.arm, m.measure): m.value for m in e.measures()}
    name = "chains" + (" p=0.5" if arm == "intensity" else " p=0")
    assert measures[name, "answer_loss_nats"] == pytest.approx(
        found["answer_nats"].sum() / found["n_answer"].sum()
    )


def test_a_score_is_of_all_problems_together() -> None:
    table = pd.DataFrame(
        {"is_right": [True, False], "ended": [True, True], "n_tokens": [2, 4],
         "gold_tokens": [10, 14], "n_valid": [1, 0], "n_statements": [1, 3]}
    )  # fmt: skip
    found = {m.measure: m.value for m in score("a", table)}
    assert found == {"accuracy": 0.5, "ended": 1, "length_ratio": 0.25, "valid_statements": 0.25}


def test_chance_is_the_commonest_answer_of_the_training() -> None:
    arithmetic = blotching(**SMALL | {"n_val_problems": 40}).arithmetic
    assert arithmetic is not None
    train, held_out = (
        [value(p) for p in part]
        for part in (arithmetic.problems.train, arithmetic.problems.validation)
    )
    guess = Counter(train).most_common(1)[0][0]
    assert Counter(held_out).most_common(1)[0][1] > held_out.count(guess)
    assert chance(arithmetic).value == held_out.count(guess) / 40


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


def test_lengths_are_of_the_whole_chains() -> None:
    _, e = evaluated()
    table = length_table(e)
    gold = Counter(chain.n_droppable for chain in e.chains)
    assert len(gold) > 1
    for _, rows in table.groupby("requested_p"):
        assert dict(zip(rows["steps"], rows["n_problems"], strict=True)) == gold
    direct = answers_table(evaluated(arm="direct")[1])
    assert set(direct["requested_p"]) == {1.0}
