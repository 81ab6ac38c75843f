"""Positions in documents to cut windows at: drawn at random, or spread evenly."""

import numpy as np
from numpy.typing import ArrayLike


class RandomPlaces:
    """Positions drawn at random; each position of each document is equally likely.

    The i-th draw is a function of (seed, i), so a resumed training sees the same draws.

    Args:
        counts: (D,) number of positions in each document, 0 or more, not all 0.
        seed: seed of the draws.
        n: number of draws.
    """

    def __init__(self, counts: ArrayLike, *, seed: int, n: int) -> None:
        self.seed, self.n = seed, n
        self.ends = np.cumsum(counts)  # (D,)

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> tuple[int, int]:
        """Return the document of a draw and the position in it."""
        if not 0 <= index < self.n:
            raise IndexError(index)
        place = int(np.random.default_rng([self.seed, index]).integers(self.ends[-1]))
        document = int(np.searchsorted(self.ends, place, side="right"))
        return document, place - (int(self.ends[document - 1]) if document else 0)


def evenly(n_all: int, n: int) -> list[int]:
    """Return the indices of n of n_all things, evenly spread; all of them if there are fewer."""
    n = min(n, n_all)
    return [i * n_all // n for i in range(n)]
