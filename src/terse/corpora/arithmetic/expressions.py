"""Sums of products of integers, as written in a statement."""

import math
import re

# Terms of a sum; each is a tuple of factors, a single one for a plain number.
Terms = tuple[tuple[int, ...], ...]

_NUMBER = r"(?:0|[1-9]\d*)"
_STATEMENT = re.compile(rf"{_NUMBER}(?:[+*]{_NUMBER})*")


def write(terms: Terms) -> str:
    """Return the text of a sum of products, such as `2*3+18`."""
    return "+".join("*".join(map(str, factors)) for factors in terms)


def read(text: str) -> Terms | None:
    """Return the terms of a statement, None if the text is not a statement."""
    if not _STATEMENT.fullmatch(text):
        return None
    return tuple(tuple(map(int, term.split("*"))) for term in text.split("+"))


def value(terms: Terms) -> int:
    """Return the value of a sum of products."""
    return sum(math.prod(factors) for factors in terms)


def commuted(terms: Terms) -> Terms:
    """Return the canonical form, equal for all orders of the same terms and factors."""
    return tuple(sorted(tuple(sorted(factors)) for factors in terms))


def digit(number: int, place: int) -> int:
    """Return the digit at a decimal place; place 1 is the ones."""
    return number // 10 ** (place - 1) % 10
