"""Chooses the steps and tokens of a chain that are left out."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from terse.errors import TerseError
from terse.methods.blotching.settings import BlotchingSettings

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Chain:
    """A problem, steps and an answer, as tokens (T,) and the step (T,) that each belongs to.

    Step 0, the problem with its separator, and the last step, the answer with EOS, are never left
    out; those between can be. n_bytes: UTF-8 bytes of the text of all tokens but EOS.
    """

    tokens: NDArray[np.int64]
    steps: NDArray[np.int64]
    n_bytes: int

    @property
    def n_droppable(self) -> int:
        return int(self.steps[-1]) - 1


def bin_of(p: float, settings: BlotchingSettings) -> int:
    """Return the intensity token, 0 .. n_btokens - 1, nearest to a share p of steps left out.

    Raises TerseError for a share outside of blotch_p_min .. blotch_p_max.
    """
    low, high = settings.blotch_p_min, settings.blotch_p_max
    if not low <= p <= high:
        raise TerseError(f"an intensity of {p} was not trained; allowed: {low} to {high}")
    return round((p - low) / (high - low) * (settings.n_btokens - 1))


def dropped_steps(n: int, p: float, settings: BlotchingSettings, rng: np.random.Generator) -> Bools:
    """Return which of n droppable steps are left out, (n,)."""
    draws = rng.random(n + 1)
    if settings.blotch_spacing == "equal":
        shift = 0.5 if settings.equal_rounding == "half" else draws[n]
        return evenly(n, min(n, math.floor(p * n + shift)))
    dropped = draws[:n] < p
    if not settings.contig_blotches:
        for i in range(1, n):
            dropped[i] &= not dropped[i - 1]
    return dropped


def evenly(n: int, count: int) -> Bools:
    """Return which `count` of n steps, evenly spaced, are left out, (n,)."""
    dropped = np.zeros(n, dtype=bool)
    # (i + 0.5) n / count, in whole numbers
    dropped[[(2 * i + 1) * n // (2 * count) for i in range(count)]] = True
    return dropped


def kept_tokens(
    chain: Chain, p: float, settings: BlotchingSettings, rng: np.random.Generator
) -> Bools:
    """Return which tokens of a chain are kept, (T,)."""
    dropped = dropped_steps(chain.n_droppable, p, settings, rng)
    kept = ~np.concatenate([[False], dropped, [False]])[chain.steps]
    if settings.tok_drop_p:
        inside = (chain.steps > 0) & (chain.steps < chain.steps[-1])
        kept &= ~(inside & (rng.random(len(kept)) < settings.tok_drop_p))
    return kept
