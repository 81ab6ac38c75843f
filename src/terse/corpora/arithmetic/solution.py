"""The worked solution of a problem: a chain of statements, all of the same value."""

from collections import defaultdict

from terse.corpora.arithmetic.expressions import Terms, digit, value, write


def solve(problem: Terms) -> list[str]:
    """Return the chain of a problem: the problem, its statements and, last, the answer.

    Products are written out as sums, numbers are split by place, and equal places are added, from
    the ones up. A statement equal to an earlier one is not repeated.
    """
    work = _Work(problem)
    work.say()
    work.expand_products()
    work.split_places()
    work.add_places()
    return work.chain


class _Work:
    """A list of products, queues of addends by their number of digits, and the chain so far."""

    def __init__(self, problem: Terms) -> None:
        self.products = [sorted(term) for term in problem if len(term) > 1]
        self.queues: defaultdict[int, list[int]] = defaultdict(list)
        for term in problem:
            if len(term) == 1:
                self._queue_of(term[0]).append(term[0])
        self.top = len(str(value(problem)))  # digits of the total, the longest number
        self.chain = [write(problem)]
        self._said = set(self.chain)

    def say(self) -> None:
        """Append the current state as a statement, unless it is in the chain."""
        addends = [(number,) for digits in sorted(self.queues) for number in self.queues[digits]]
        text = write((*map(tuple, self.products), *addends))
        if text not in self._said:
            self._said.add(text)
            self.chain.append(text)

    def expand_products(self) -> None:
        """Turn products into addends, leftmost first, one statement per move."""
        while self.products:
            least, *rest = self.products.pop(0)
            if least == 0:
                self._put_first([0])
            elif least <= 2:
                for _ in range(least):
                    self._put_first(rest)
            else:
                self.products.insert(0, [least - 1, *rest])
                self._put_first(rest)
            self.say()

    def split_places(self) -> None:
        """Split off the digit at each place to which at least two numbers contribute."""
        for place in range(1, self.top):
            longer = [digits for digits in sorted(self.queues) if digits > place]
            n_longer = sum(digit(number, place) > 0 for d in longer for number in self.queues[d])
            if len(self.queues[place]) + n_longer < 2:
                continue
            for digits in longer:
                for index in range(len(self.queues[digits])):
                    self._split(digits, index, place)

    def add_places(self) -> None:
        """Add up the queues from the shortest numbers to the longest, with carries."""
        for place in range(1, self.top + 1):
            queue = self.queues[place]
            while len(queue) > 1:
                total = queue.pop(0) + queue.pop(0)
                self._put_first([total])
                self.say()
                if len(str(total)) > place and queue:
                    self._split(len(str(total)), 0, place)
            longer = [d for d in sorted(self.queues) if d > place and self.queues[d]]
            if queue and longer:
                self._put_first([queue.pop(0) + self.queues[longer[0]].pop(0)])
                self.say()

    def _split(self, digits: int, index: int, place: int) -> None:
        """Split a non-zero digit at a place off a longer number, as a statement."""
        fragment = digit(self.queues[digits][index], place) * 10 ** (place - 1)
        if fragment:
            self.queues[digits][index] -= fragment
            self.queues[place].insert(0, fragment)
            self.say()

    def _put_first(self, factors: list[int]) -> None:
        if len(factors) > 1:
            self.products.insert(0, factors)
        else:
            self._queue_of(factors[0]).insert(0, factors[0])

    def _queue_of(self, number: int) -> list[int]:
        return self.queues[len(str(number))]
