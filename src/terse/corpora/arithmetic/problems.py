"""Random problems in three sets that are disjoint, even up to commutation."""

import itertools
import random
from bisect import bisect
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from terse.corpora.arithmetic.expressions import Terms, commuted
from terse.errors import TerseError

# Consecutive draws without a new problem after which an environment counts as exhausted.
PATIENCE = 2000


@dataclass(frozen=True)
class Environment:
    """The distribution of problems.

    From two to `max_ents` numbers, the third and each later one with probability `p_ent`; "*"
    between two with probability `p_mult`, else "+"; `space_mults`: never two "*" in a row. Addends
    are in 0..max_num, uniform or, with `zipf_order` s > 0, proportional to (number + 1)^-s;
    factors are uniform in 0..max_mult_num.
    """

    max_num: int
    max_ents: int = 2
    p_mult: float = 0.0
    max_mult_num: int = 10
    p_ent: float = 0.5
    space_mults: bool = True
    zipf_order: float = 0.0


@dataclass(frozen=True)
class Splits:
    """Training problems (drawn with repeats) and distinct held-out ones.

    ood: problems out of distribution, each with a number above the training maximum.
    """

    train: list[Terms]
    validation: list[Terms]
    ood: list[Terms]


def make_splits(
    environment: Environment, *, seed: int, n_train: int, n_validation: int, ood_max_num: int
) -> Splits:
    """Return the three sets, determined by the arguments.

    Raises TerseError if the environment has too few problems.
    """
    draw = Drawer(environment)
    validation = distinct(
        (draw.problem(rng) for rng in _forever(seed, "validation")), n_validation, set()
    )
    held_out = {commuted(problem) for problem in validation}
    train = list(itertools.islice(_others(lambda rng: draw.problem(rng), seed, held_out), n_train))
    ood = distinct(
        (draw.beyond(rng, ood_max_num) for rng in _forever(seed, "ood")), n_validation, set()
    )
    return Splits(train, validation, ood)


class Drawer:
    """Draws problems of an environment."""

    def __init__(self, environment: Environment) -> None:
        self.environment = e = environment
        weights = [(k + 1) ** -e.zipf_order for k in range(e.max_num + 1)]
        self._cumulative = list(itertools.accumulate(weights))

    def problem(self, rng: random.Random) -> Terms:
        """Return a problem."""
        return self._with_numbers(self._shape(rng), rng)

    def beyond(self, rng: random.Random, ood_max_num: int) -> Terms:
        """Return a problem with one number in (training maximum, ood_max_num].

        The number is an addend above all addends or, without addends, a factor above all numbers.
        """
        shape = self._shape(rng)
        terms = [list(term) for term in self._with_numbers(shape, rng)]
        addends = [term for term in terms if len(term) == 1]
        term = rng.choice(addends or terms)
        e = self.environment
        least = (e.max_num if addends else max(e.max_mult_num, e.max_num)) + 1
        term[rng.randrange(len(term))] = rng.randint(least, ood_max_num)
        return tuple(map(tuple, terms))

    def _shape(self, rng: random.Random) -> list[int]:
        """Return the number of factors of each term."""
        e = self.environment
        n_numbers = 2 + sum(rng.random() < e.p_ent for _ in range(e.max_ents - 2))
        shape, after_product = [1], False
        for _ in range(n_numbers - 1):
            after_product = rng.random() < e.p_mult and not (e.space_mults and after_product)
            if after_product:
                shape[-1] += 1
            else:
                shape.append(1)
        return shape

    def _with_numbers(self, shape: list[int], rng: random.Random) -> Terms:
        return tuple(
            (self._number(rng),)
            if size == 1
            else tuple(rng.randint(0, self.environment.max_mult_num) for _ in range(size))
            for size in shape
        )

    def _number(self, rng: random.Random) -> int:
        return bisect(self._cumulative, rng.random() * self._cumulative[-1])


def distinct(problems: Iterator[Terms], n: int, taken: set[Terms]) -> list[Terms]:
    """Return the first n problems that differ under commutation and are not in `taken`."""
    seen, found, idle = set(taken), [], 0
    while len(found) < n:
        problem = next(problems)
        form = commuted(problem)
        idle = idle + 1 if form in seen else 0
        if idle > PATIENCE:
            raise TerseError(
                f"the environment has only about {len(found)} distinct problems, not {n}: raise "
                "max_num or max_ents, or lower n_val_problems"
            )
        if not idle:
            seen.add(form)
            found.append(problem)
    return found


def _others(
    draw: Callable[[random.Random], Terms], seed: int, held_out: set[Terms]
) -> Iterator[Terms]:
    """Yield problems that are not held out."""
    idle = 0
    for rng in _forever(seed, "train"):
        problem = draw(rng)
        idle = idle + 1 if commuted(problem) in held_out else 0
        if idle > PATIENCE:
            raise TerseError(
                "all problems of the environment are held out: raise max_num or max_ents, or lower "
                "n_val_problems"
            )
        if not idle:
            yield problem


def _forever(seed: int, name: str) -> Iterator[random.Random]:
    rng = random.Random(f"{seed} {name}")
    while True:
        yield rng
