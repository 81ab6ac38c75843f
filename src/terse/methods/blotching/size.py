"""The length of arithmetic chains from settings alone, without torch, for planning jobs."""

import random
from typing import TYPE_CHECKING

from terse.corpora.arithmetic.problems import Drawer, Environment
from terse.corpora.arithmetic.solution import solve

if TYPE_CHECKING:
    from terse.methods.blotching.settings import BlotchingSettings

_N_DRAWN = 100


def chain_length(s: "BlotchingSettings") -> int:
    """Return the mean number of tokens of a solved problem, EOS included, of a hundred drawn."""
    names = Environment.__dataclass_fields__
    draw, rng = Drawer(Environment(**{name: getattr(s, name) for name in names})), random.Random(0)
    total = sum(len("=".join(solve(draw.problem(rng)))) + 1 for _ in range(_N_DRAWN))
    return -(-total // _N_DRAWN)


def n_answers(s: "BlotchingSettings") -> int:
    """Return how often each held-out problem is read or answered in an evaluation."""
    n = s.n_eval_ps if s.arm == "intensity" else 1
    spread = min(3, n)  # the smallest, the middle and the largest intensity
    return n * (2 + 2) + spread * (len(s.eval_temps) + s.n_votes)  # losses, greedy, sampled, ood
