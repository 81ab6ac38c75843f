"""Reading a whole context, then evicting keys and values before the target is read."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from terse.evaluation.frontier.choices import Choice, Recency, Surprisal
from terse.evaluation.frontier.ends import without_context
from terse.evaluation.frontier.held import States
from terse.evaluation.frontier.observed import Layer, observe, observed
from terse.evaluation.frontier.reader import CausalReader, CausalReading, KeysValues, Tokens
from terse.evaluation.frontier.reading import Cost, at_rate, best, n_left
from terse.evaluation.frontier.rotary import Rotary
from terse.evaluation.frontier.windows import Window


class CacheScore(ABC):
    """A published score of the entries of a cache.

    asks: whether it needs the layer's queries. turns: whether it needs rotary positions.
    """

    asks: ClassVar[bool] = False
    turns: ClassVar[bool] = False

    @abstractmethod
    def score(self, layer: Layer) -> Tensor:
        """Return the scores (H, L) of a layer's entries; the highest are held."""

    def flops(self, layer: Layer) -> float:
        """Return the FLOPs of a layer's scores, counted as in `terse.evaluation.flops`."""
        return 0.0


class Looked(NamedTuple):
    """A context that was read whole: what it cost to know what to hold.

    whole: its cache. scores: of each layer's entries, (L,) or (H, L); the highest are held.
    computed: positions. flops: of passes and scores.
    """

    whole: KeysValues
    scores: list[Tensor]
    computed: float
    flops: float


class Eviction(CausalReading):
    """Holds n of the L keys and values of [start, context without its last token].

    The context's last token is read with the target, at the position after L, so the target's
    first token is predicted after the eviction, too. n is the rate's share of L, rounded down: as
    many positions as n tokens read anew, and as many as kvpress holds of the same text. dense: the
    held keys are rotated to positions without gaps.
    """

    def __init__(self, reader: CausalReader, *, dense: bool = False) -> None:
        self.reader, self.dense = reader, dense
        self.positions = "dense" if dense else "kept"
        self.rotary = Rotary(reader.lm) if dense else None

    def read(self, window: Window, rates: Sequence[float]) -> list[Cost]:
        tokens = self.reader.tokens(window)
        looked = self.look(tokens, window)
        states = None if self.held is None else self.held.states()
        return [self._at(rate, looked, states, tokens) for rate in rates]

    @abstractmethod
    def look(self, tokens: Tokens, window: Window) -> Looked:
        """Return the whole cache and its scores; its last pass is over all that is held."""

    def _at(self, rate: float, looked: Looked, states: States | None, tokens: Tokens) -> Cost:
        n, (whole, scores, computed, flops) = n_left(rate, tokens.L), looked
        if n == 0:
            return at_rate(without_context(self.reader, tokens), rate)
        held = held_entries(whole, scores, n)
        kept = [evicted(pair, index) for pair, index in zip(whole, held, strict=True)]
        last = tokens.L
        if self.rotary is not None:
            kept = [turned(self.rotary, p, i) for p, i in zip(kept, held, strict=True)]
            last = n
        nats = self.reader.read_after(kept, tokens, last)
        return self.reader.cost(
            rate, nats, tokens, held=n, computed=computed + tokens.m,
            flops=flops + self.reader.after_flops(n, tokens.m),
            dimensions=self.dimensions(held, states),
        )  # fmt: skip


class EvictedTokens(Eviction):
    """The same tokens are held in each layer and head; the start token first, unless by recency."""

    def __init__(self, reader: CausalReader, choice: Choice, *, dense: bool = False) -> None:
        super().__init__(reader, dense=dense)
        self.choice = choice
        if isinstance(choice, Recency):
            self.note = "the cache is cut without its first tokens, on which models rely"

    def look(self, tokens: Tokens, window: Window) -> Looked:
        L, flops = tokens.L, self.reader.flops
        whole = self.reader.prefill(tokens)
        scores = self.choice.look(self.reader, tokens, window)[:-1]
        first = scores.new_tensor([-1.0 if isinstance(self.choice, Recency) else torch.inf])
        computed, work = float(L), float(flops.total(L))
        if isinstance(self.choice, Surprisal):
            computed, work = computed + L, work + float(flops.total(L, L))
        return Looked(whole, [torch.cat([first, scores])] * len(whole), computed, work)


class Evicted(Eviction):
    """Each layer and head holds what a published score of its own entries rates highest."""

    def __init__(self, reader: CausalReader, score: CacheScore, *, dense: bool = False) -> None:
        super().__init__(reader, dense=dense)
        self.score = score
        self._turns = Rotary(reader.lm) if score.turns else None
        if score.asks:
            observe(reader.lm)

    def look(self, tokens: Tokens, window: Window) -> Looked:
        layers = self.layers(tokens)
        scores = [self.score.score(layer) for layer in layers]
        work = sum(self.score.flops(layer) for layer in layers)
        whole = [(layer.keys[None], layer.values[None]) for layer in layers]
        work += float(self.reader.flops.total(tokens.L))
        return Looked(whole, scores, float(tokens.L), work)

    def layers(self, tokens: Tokens) -> list[Layer]:
        """Return what each layer holds of [start, context without its last token]."""
        with observed() as seen:
            whole = self.reader.prefill(tokens)
        asked = seen if self.score.asks else [(None, 1.0)] * len(whole)
        return [
            Layer(k[0], v[0], None if q is None else q[0], scaling, self._turns)
            for (k, v), (q, scaling) in zip(whole, asked, strict=True)
        ]


def held_entries(whole: KeysValues, scores: list[Tensor], n: int) -> list[Tensor]:
    """Return the indices (H, n), in order, of the n entries that each layer and head holds."""
    return [
        best(score.expand(keys.shape[1], -1), n)
        for (keys, _), score in zip(whole, scores, strict=True)
    ]


def evicted(pair: tuple[Tensor, Tensor], held: Tensor) -> tuple[Tensor, Tensor]:
    """Return the held (H, n) entries of a layer's keys and values (1, H, L, D)."""
    _, H, L, D = pair[0].shape
    rows = (held + L * torch.arange(H, device=held.device)[:, None]).flatten()
    keys, values = (x.reshape(H * L, D)[rows].reshape(1, H, -1, D) for x in pair)
    return keys, values


def turned(rotary: Rotary, pair: tuple[Tensor, Tensor], held: Tensor) -> tuple[Tensor, Tensor]:
    """Return held keys and values with the keys rotated from positions (H, n) to 0 .. n - 1."""
    keys, values = pair
    dense = torch.arange(held.shape[1], device=held.device)
    return rotary.turned(keys[0], dense - held)[None], values
