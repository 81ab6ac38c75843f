"""Tables of a blotching run for the report."""

import numpy as np
import pandas as pd

from terse.corpora.arithmetic.characters import decode
from terse.evaluation.proportions import wilson
from terse.methods.blotching.answers import Request
from terse.methods.blotching.cost import cost_table
from terse.methods.blotching.evaluation import Evaluation, score


def all_tables(evaluation: Evaluation) -> dict[str, pd.DataFrame]:
    """Return the tables by name; those of answers only if the run solves problems."""
    e = evaluation
    tables = {"losses": losses_table(evaluation), "cost": cost_table(e.model, e.layout, e.chains)}
    if evaluation.arithmetic is None:
        return tables
    tables |= {"answers": answers_table(evaluation), "by_length": length_table(evaluation)}
    if evaluation.layout.settings.n_samples:
        tables["samples"] = samples_table(evaluation)
    return tables


def answers_table(evaluation: Evaluation) -> pd.DataFrame:
    """Return a row for each set of problems, intensity, temperature and number of votes.

    Columns: arm, split, requested_p (share of steps to leave out; the arm's own if it takes no
    requests), temperature, n_votes, accuracy with its 95 % interval, length_ratio (generated tokens
    per token of the whole chain), valid_statements (share), ended (share), n_problems.
    """
    s = evaluation.layout.settings
    rows = []
    for request in evaluation.requests():
        measures = {m.measure: m for m in score("", evaluation.answered(request))}
        rows.append(
            _about(evaluation, request, 1)
            | _accuracy(measures["accuracy"].value, measures["accuracy"].n)
            | {name: measures[name].value for name in ("length_ratio", "valid_statements", "ended")}
        )
    for p in evaluation.spread_ps if s.n_votes else []:
        won = evaluation.voted(p)
        about = _about(evaluation, Request("validation", p, s.val_temp), s.n_votes)
        rows.append(about | _accuracy(float(won.mean()), len(won)))
    return pd.DataFrame(rows)


def _about(evaluation: Evaluation, request: Request, n_votes: int) -> dict[str, object]:
    s = evaluation.layout.settings
    return {
        "arm": s.arm,
        "split": request.split,
        "requested_p": s.constant_p if request.p is None else request.p,
        "temperature": request.temperature,
        "n_votes": n_votes,
    }


def _accuracy(share: float, n: int) -> dict[str, object]:
    low, high = wilson(round(share * n), n)
    return {"accuracy": share, "accuracy_low": low, "accuracy_high": high, "n_problems": n}


def length_table(evaluation: Evaluation) -> pd.DataFrame:
    """Return the greedy accuracy by the number of droppable steps of the whole chain."""
    rows = []
    for p in evaluation.spread_ps:
        request = Request("validation", p)
        about = _about(evaluation, request, 1)
        for n_steps, group in evaluation.answered(request).groupby("gold_steps"):
            found = _accuracy(float(np.mean(group["is_right"])), len(group))
            rows.append({k: about[k] for k in ("arm", "requested_p")} | {"steps": n_steps} | found)
    return pd.DataFrame(rows)


def losses_table(evaluation: Evaluation) -> pd.DataFrame:
    """Return the losses of held-out chains at each share of steps left out, nats per token."""
    rows = []
    for p in evaluation.loss_ps:
        found = evaluation.losses(p)
        sums = {column: float(found[column].to_numpy().sum()) for column in found}
        rows.append(
            {
                "arm": evaluation.layout.settings.arm,
                "p": p,
                "loss_nats": sums["nats"] / sums["n_targets"],
                "loss_nats_per_original_token": sums["nats"] / sums["n_original"],
                "answer_loss_nats": sums["answer_nats"] / sums["n_answer"],
                "n_chains": len(evaluation.chains),
            }
        )
    return pd.DataFrame(rows)


def samples_table(evaluation: Evaluation) -> pd.DataFrame:
    """Return problems with their chains, and the greedy generation at each intensity."""
    arithmetic = evaluation.arithmetic
    assert arithmetic is not None
    n_problems = len(arithmetic.problems.validation)
    n = min(evaluation.layout.settings.n_samples, n_problems)
    rows = []
    for index in (i * n_problems // n for i in range(n)):
        chain = evaluation.chains[index]
        problem, _, solution = decode(chain.tokens).partition("=")
        for p in evaluation.spread_ps:
            request = Request("validation", p)
            found = evaluation.answered(request).iloc[index]
            p_asked = _about(evaluation, request, 1)["requested_p"]
            rows.append(
                {
                    "problem": problem,
                    "requested_p": p_asked,
                    "whole_chain": solution,
                    "written": found["written"],
                    "is_right": bool(found["is_right"]),
                }
            )
    return pd.DataFrame(rows)
