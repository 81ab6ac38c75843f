"""A text model for lm-eval: likelihoods of continuations, and generated text."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import islice
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from torch import Tensor

from terse.errors import TerseError
from terse.evaluation.lm_eval.options import Options, greedy_options
from terse.evaluation.lm_eval.pairs import joined

Scored = tuple[float, bool]


class CausalText(LM, ABC):
    """Scores and writes texts of any length through windows.

    A window's position depends only on the position in the text. So the likelihood of a symbol
    depends only on the text before it, whatever the request, and the parts of a text add up.
    """

    def __init__(self, batch_size: int | str = 8, max_batch_size: int | None = None) -> None:
        super().__init__()
        if not str(batch_size).isdigit() or int(batch_size) == 0:
            raise TerseError(f"batch_size {batch_size!r}: give a number of texts, 1 or more")
        self.batch_size = min(int(batch_size), max_batch_size or int(batch_size))

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Return a text as symbols."""

    @abstractmethod
    def decode(self, symbols: list[int]) -> str:
        """Return symbols as a text."""

    @abstractmethod
    def window(self, place: int) -> tuple[int, int]:
        """Return the start and end of the window in which a position of a text is a target."""

    @abstractmethod
    def score(self, rows: list[list[int]]) -> list[tuple[Tensor, Tensor]]:
        """Return each symbol's log-likelihood in nats, and whether it is the most likely.

        rows: windows, up to the end of their texts. The values of symbols that are not targets in
        their window are not read.
        """

    @abstractmethod
    def write(self, symbols: list[int]) -> Iterator[int]:
        """Yield the symbols generated greedily after given ones, until the model ends the text."""

    def loglikelihood(self, requests: list[Instance]) -> list[Scored]:
        """Return (log-likelihood in nats, whether greedy decoding gives it) of continuations."""
        arguments: list[Any] = [request.args for request in requests]
        return self._scored([self._pair(context, text) for context, text in arguments])

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Return the log-likelihood of entire texts, in nats."""
        texts = [self.encode(str(request.args[0])) for request in requests]
        return [nats for nats, _ in self._scored([(0, symbols) for symbols in texts])]

    def _pair(self, context: str, text: str) -> tuple[int, list[int]]:
        """Return where the continuation begins among the symbols of both, and these symbols."""
        return joined(self.encode, context, text)

    def _scored(self, items: list[tuple[int, list[int]]]) -> list[Scored]:
        windows = [
            (number, *window)
            for number, (first, symbols) in enumerate(items)
            for window in self._windows(first, len(symbols))
        ]
        totals, right = [0.0] * len(items), [True] * len(items)
        for start in range(0, len(windows), self.batch_size):
            part = windows[start : start + self.batch_size]
            scores = self.score([items[number][1][begin:end] for number, begin, _, end in part])
            for (number, begin, first, end), (logs, best) in zip(part, scores, strict=True):
                chosen = slice(first - begin, end - begin)
                totals[number] += float(logs[chosen].double().sum())
                right[number] &= bool(best[chosen].all())
        return list(zip(totals, right, strict=True))

    def _windows(self, first: int, stop: int) -> list[tuple[int, int, int]]:
        """Return the windows whose targets are the positions [first, stop) of a text.

        Each is (its start, its first target, the end of its targets).
        """
        found = []
        while first < stop:
            begin, end = self.window(first)
            found.append((begin, first, min(end, stop)))
            first = min(end, stop)
        return found

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Return the text generated greedily after contexts, up to a stop text or the end."""
        arguments: list[Any] = [request.args for request in requests]
        return [self._written(context, greedy_options(options)) for context, options in arguments]

    def _written(self, context: str, options: Options) -> str:
        symbols: list[int] = []
        for symbol in islice(self.write(self.encode(context)), options.longest):
            symbols.append(symbol)
            if any(stop in self.decode(symbols) for stop in options.stops):
                break
        text = self.decode(symbols)
        ends = [text.index(stop) for stop in options.stops if stop in text]
        return text[: min(ends, default=len(text))]
