"""Reading a whole context, then evicting keys and values before the target is read."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from terse.evaluation.frontier.choices import Choice, Recency, Surprisal
from terse.evaluation.frontier.ends import without_context
from terse.evaluation.frontier.held import Held, States
from terse.evaluation.frontier.observed import Layer, observe, observed
from terse.evaluation.frontier.reader import CausalReader, CausalReading, KeysValues, Tokens
from terse.evaluation.frontier.reading import Cost, at_rate, best, n_left
from terse.evaluation.frontier.rotary import Rotary
from terse.evaluation.frontier.windows import Window

# Of all rows of a pass, held and target: 1 GiB of keys and values in a 7B model's float16.
PASS_POSITIONS = 2048


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


class Whole(NamedTuple):
    """One pass over [start, context without its last token], which several evictions can share.

    layers: what each of them holds. states: those whose dimensions are measured, if any are.
    """

    layers: list[Layer]
    states: States | None

    @property
    def cache(self) -> KeysValues:
        """Keys and values of each layer, (1, H, L, D)."""
        return [(layer.keys[None], layer.values[None]) for layer in self.layers]


class Looked(NamedTuple):
    """What to hold of a context, and what it cost to know, the pass over it included.

    scores: of each layer's entries, (L,) or (H, L); the highest are held. computed: positions.
    flops: of passes and scores.
    """

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
        whole = read_whole(self.reader, tokens, self.held)
        evicted = self.evict(whole, tokens, window, rates)
        return self.costs(evicted, read_left([evicted])[0])

    def evict(
        self, whole: Whole, tokens: Tokens, window: Window, rates: Sequence[float]
    ) -> "EvictedCache":
        """Return what each rate leaves after the pass over a window's whole context."""
        looked, cache = self.look(whole, tokens, window), whole.cache
        counts = [(rate, n_left(rate, tokens.L)) for rate in rates]
        held = {n: held_entries(cache, looked.scores, n) for _, n in counts if n}
        return EvictedCache(self, whole, tokens, counts, held, looked)

    def costs(self, evicted: "EvictedCache", nats: Mapping[int, float]) -> list[Cost]:
        """Return the costs at each rate, given the target's nats after each number of entries."""
        tokens, looked = evicted.tokens, evicted.looked
        return [
            self._cost(rate, nats[n], evicted.held[n], looked, evicted.whole.states, tokens)
            if n
            else at_rate(without_context(self.reader, tokens), rate)
            for rate, n in evicted.counts
        ]

    @abstractmethod
    def look(self, whole: Whole, tokens: Tokens, window: Window) -> Looked:
        """Return the scores of a context's entries, after the pass over it."""

    def left(self, cache: KeysValues, held: list[Tensor]) -> KeysValues:
        """Return the held (H, n) entries of each layer, as they are while the target is read."""
        left = [evicted(pair, index) for pair, index in zip(cache, held, strict=True)]
        if self.rotary is None:
            return left
        return [turned(self.rotary, p, i) for p, i in zip(left, held, strict=True)]

    def _cost(
        self, rate: float, nats: float, held: list[Tensor], looked: Looked, states: States | None,
        tokens: Tokens,
    ) -> Cost:  # fmt: skip
        n = held[0].shape[1]
        return self.reader.cost(
            rate, nats, tokens, held=n, computed=looked.computed + tokens.m,
            flops=looked.flops + self.reader.after_flops(n, tokens.m),
            dimensions=self.dimensions(held, states),
        )  # fmt: skip


class EvictedCache(NamedTuple):
    """What an eviction leaves of one context, as indices: copies of all would take much memory.

    counts: each rate with its number n of entries. held: the indices (H, n) of each layer, by n.
    """

    eviction: Eviction
    whole: Whole
    tokens: Tokens
    counts: list[tuple[float, int]]
    held: dict[int, list[Tensor]]
    looked: Looked

    def left(self, n: int) -> KeysValues:
        """Return the keys and values (1, H, n, D) of each layer."""
        return self.eviction.left(self.whole.cache, self.held[n])


class EvictedTokens(Eviction):
    """The same tokens are held in each layer and head; the start token first, unless by recency."""

    def __init__(self, reader: CausalReader, choice: Choice, *, dense: bool = False) -> None:
        super().__init__(reader, dense=dense)
        self.choice = choice
        if isinstance(choice, Recency):
            self.note = "the cache is cut without its first tokens, on which models rely"

    def look(self, whole: Whole, tokens: Tokens, window: Window) -> Looked:
        L, flops = tokens.L, self.reader.flops
        scores = self.choice.look(self.reader, tokens, window)[:-1]
        first = scores.new_tensor([-1.0 if isinstance(self.choice, Recency) else torch.inf])
        computed, work = float(L), float(flops.total(L))
        if isinstance(self.choice, Surprisal):
            computed, work = computed + L, work + float(flops.total(L, L))
        return Looked([torch.cat([first, scores])] * len(whole.layers), computed, work)


class Evicted(Eviction):
    """Each layer and head holds what a published score of its own entries rates highest."""

    def __init__(self, reader: CausalReader, score: CacheScore, *, dense: bool = False) -> None:
        super().__init__(reader, dense=dense)
        self.score = score
        self._turns = Rotary(reader.lm) if score.turns else None
        if score.asks:
            observe(reader.lm)

    def look(self, whole: Whole, tokens: Tokens, window: Window) -> Looked:
        layers = [replace(layer, rotary=self._turns) for layer in whole.layers]
        scores = [self.score.score(layer) for layer in layers]
        work = sum(self.score.flops(layer) for layer in layers)
        return Looked(scores, float(tokens.L), work + float(self.reader.flops.total(tokens.L)))


def read_whole(reader: CausalReader, tokens: Tokens, held: Held | None = None) -> Whole:
    """Read all of a context but its last token, once; its queries are kept if they are observed.

    held: where the states are that are measured.
    """
    with observed() as seen:
        cache = reader.prefill(tokens)
    asked = seen or [(None, 1.0)] * len(cache)
    layers = [
        Layer(k[0], v[0], None if q is None else q[0], scaling)
        for (k, v), (q, scaling) in zip(cache, asked, strict=True)
    ]
    return Whole(layers, None if held is None else held.states())


def read_left(evicted: Sequence[EvictedCache]) -> list[dict[int, float]]:
    """Return the target's nats after each number of entries, n, that evictions left.

    evicted: of one window by one reader. They share their passes, except that all of a context's
    entries are read alone, as `full` reads them.
    """
    found: list[dict[int, float]] = [{} for _ in evicted]
    shared: list[tuple[int, int]] = []
    for i, one in enumerate(evicted):
        for n in one.held:
            if n == (L := one.tokens.L):
                found[i][n] = one.eviction.reader.read_after(one.left(n), one.tokens, L)
            else:
                shared.append((n, i))
    for rows in _batches(shared, evicted[0].tokens.m if evicted else 0):
        tokens, reader = evicted[0].tokens, evicted[0].eviction.reader
        places = [n if evicted[i].eviction.dense else tokens.L for n, i in rows]
        nats = reader.read_after_each([evicted[i].left(n) for n, i in rows], tokens, places)
        for (n, i), value in zip(rows, nats, strict=True):
            found[i][n] = value
    return found


def _batches(rows: Sequence[tuple[int, int]], m: int) -> list[list[tuple[int, int]]]:
    """Return rows of n entries and m target tokens, those of a pass together, longest first."""
    batches: list[list[tuple[int, int]]] = []
    for row in sorted(rows, key=lambda row: -row[0]):
        if batches and (len(batches[-1]) + 1) * (batches[-1][0][0] + m) <= PASS_POSITIONS:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


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
