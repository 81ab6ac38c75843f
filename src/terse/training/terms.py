"""The values that a method logs besides its objective, summed until the next history row."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

Number = float | Tensor
# A number is a pass' part of its step's value: the parts of a step are added, steps averaged.
# A pair (sum, count) is logged as the quotient of its sums, and left out where nothing counted.
Terms = Mapping[str, Number | tuple[Number, Number]]


class TermSums:
    """Running sums of terms, by name."""

    def __init__(self, saved: Mapping[str, list[float | None]] | None = None) -> None:
        # A state of an older version has plain numbers: that one row covers fewer steps.
        self._sums: dict[str, list[Any]] = {
            name: list(pair) for name, pair in (saved or {}).items() if isinstance(pair, list)
        }

    def add(self, terms: Terms) -> None:
        """Add the terms of one forward pass."""
        for name, value in terms.items():
            total, count = value if isinstance(value, tuple) else (value, None)
            kept = self._sums.setdefault(name, [0.0, None if count is None else 0.0])
            kept[0] = kept[0] + _plain(total)
            if count is not None:
                kept[1] = kept[1] + _plain(count)

    def over_processes(self, summed: Callable[[list[float]], list[float]]) -> "TermSums":
        """Return the sums over all processes, from a function that sums a list over them."""
        mine = [float(v) for pair in self._sums.values() for v in pair if v is not None]
        numbers = iter(summed(mine) if mine else [])
        return TermSums(
            {
                name: [None if v is None else next(numbers) for v in pair]
                for name, pair in self._sums.items()
            }
        )

    def means(self, n_steps: int) -> dict[str, float]:
        """Return what is logged of `n_steps` steps."""
        divisors = {n: n_steps if count is None else count for n, (_, count) in self._sums.items()}
        return {n: total / divisors[n] for n, (total, _) in self._sums.items() if divisors[n]}

    def as_json(self) -> dict[str, list[float | None]]:
        """Return the sums as plain JSON, which the constructor takes."""
        return {n: [None if v is None else float(v) for v in s] for n, s in self._sums.items()}


def _plain(value: Number) -> Number:
    """Return a number that keeps no graph; on a GPU it stays there, so that nothing waits."""
    return value.detach().double() if isinstance(value, Tensor) else value
