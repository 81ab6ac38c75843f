"""A model's answers to arithmetic problems, and whether they are right."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from terse.corpora.arithmetic.characters import EOS, PAD, decode
from terse.corpora.arithmetic.expressions import Terms, read, value
from terse.machine.progress import shown
from terse.methods.blotching.blotches import Chain
from terse.methods.blotching.generation import Ending, generate
from terse.methods.blotching.model import Blotcher
from terse.methods.blotching.rows import REQUESTS, Layout


@dataclass(frozen=True)
class Request:
    """A set of problems, an intensity (None: the arm has none), a temperature, a draw's index."""

    split: str
    p: float | None
    temperature: float = 0.0
    draw: int = 0


def answers(
    model: Blotcher,
    layout: Layout,
    problems: Sequence[Terms],
    chains: Sequence[Chain],
    request: Request,
) -> pd.DataFrame:
    """Return a row for each problem, in order: the generated text and how it compares.

    Columns: written (text after the problem), answer (its last statement), ended (with EOS),
    is_right, n_statements, n_valid (statements with the problem's value), n_tokens (EOS included),
    gold_tokens, gold_steps (droppable steps of the whole chain).
    """
    seed = layout.settings.seed
    device = next(model.parameters()).device
    state = np.random.SeedSequence([seed, request.draw]).generate_state(1)
    generator = torch.Generator(device).manual_seed(int(state[0]))
    size = layout.settings.val_batch_size or layout.settings.batch_size
    rows = []
    for first in shown(range(0, len(chains), size), "answering problems"):
        chosen = range(first, min(first + size, len(chains)))
        places = [
            layout.positions(np.random.default_rng([seed, REQUESTS, request.draw, i]))
            for i in chosen
        ]
        written = generate(
            model,
            [layout.prompt(chains[i], request.p) for i in chosen],
            np.stack(places),
            Ending(EOS, PAD, layout.longest),
            temperature=request.temperature,
            generator=generator,
        ).numpy()
        rows += [
            judge(line, problems[i], chains[i]) for line, i in zip(written, chosen, strict=True)
        ]
    return pd.DataFrame(rows)


def judge(written: np.ndarray, problem: Terms, chain: Chain) -> dict[str, object]:
    """Return the row of one problem; written: tokens (new,)."""
    text, gold = decode(written), value(problem)
    ended = bool((written == EOS).any())
    statements = text.split("=")
    terms = [read(statement) for statement in statements]
    n_valid = sum(found is not None and value(found) == gold for found in terms)
    return {
        "written": text,
        "answer": statements[-1],
        "ended": ended,
        "is_right": ended and statements[-1] == str(gold),
        "n_statements": len(statements),
        "n_valid": n_valid,
        "n_tokens": len(text) + ended,
        "gold_tokens": int((chain.steps > 0).sum()),
        "gold_steps": chain.n_droppable,
    }


def vote(tables: Sequence[pd.DataFrame]) -> pd.Series:
    """Return whether the most common of several answers to each problem is right.

    Among equally common answers the first one counts; an answer without EOS has no vote.
    """
    given = pd.concat([t["answer"].where(t["ended"]) for t in tables], axis=1)  # (problems, votes)
    right = pd.concat([t["is_right"] for t in tables], axis=1)
    won = []
    for line, judged in zip(given.to_numpy(), right.to_numpy(), strict=True):
        votes = [answer for answer in line if isinstance(answer, str)]
        best = max(votes, key=votes.count, default=None)
        won.append(best is not None and bool(judged[list(line).index(best)]))
    return pd.Series(won)
