"""Which tokens of a context to keep, when the same are kept everywhere in the model."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from terse.evaluation.frontier.reader import CausalReader, Tokens
from terse.evaluation.frontier.reading import best, generator
from terse.evaluation.frontier.windows import Window

N_SINKS = 4


@dataclass(frozen=True)
class Chosen:
    """The kept tokens of a context, (n,) indices in order, and the passes that chose them."""

    tokens: Tensor
    computed: float = 0.0
    flops: float = 0.0


class Choice(ABC):
    """Chooses n tokens of a context; what several n share is computed by `look`."""

    note = ""  # what a reader of its results should know

    @abstractmethod
    def look(self, reader: CausalReader, tokens: Tokens, window: Window) -> Tensor:
        """Return the score of each token of a context, (L,); the highest are kept."""

    def take(self, seen: Tensor, reader: CausalReader, tokens: Tokens, n: int) -> Chosen:
        """Return the n tokens that are kept, 1 to L, from what `look` returned."""
        return Chosen(best(seen, n))


class Recency(Choice):
    """The last tokens."""

    def look(self, reader: CausalReader, tokens: Tokens, window: Window) -> Tensor:
        return torch.arange(tokens.L, device=tokens.context.device).float()


class SinkRecency(Choice):
    """The first 4 tokens, the start token among them, and the last ones.

    Fewer than that of the first if no more are kept. (https://arxiv.org/abs/2309.17453)
    """

    def look(self, reader: CausalReader, tokens: Tokens, window: Window) -> Tensor:
        place = torch.arange(tokens.L, device=tokens.context.device).float()
        return torch.where(place < N_SINKS - 1, 2.0 * tokens.L - place, place)


class Random(Choice):
    """Random tokens, in order; those of a lower rate are among those of a higher one."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def look(self, reader: CausalReader, tokens: Tokens, window: Window) -> Tensor:
        order = generator(self.seed, window).permutation(tokens.L)
        return torch.from_numpy(order).float().to(tokens.context.device)


class Surprisal(Choice):
    """The tokens that the reader predicts worst (Selective Context).

    (https://arxiv.org/abs/2310.06201)
    """

    def look(self, reader: CausalReader, tokens: Tokens, window: Window) -> Tensor:
        return reader.token_nats(tokens.context)

    def take(self, seen: Tensor, reader: CausalReader, tokens: Tokens, n: int) -> Chosen:
        flops = float(reader.flops.total(tokens.L, tokens.L))
        return Chosen(best(seen, n), computed=tokens.L, flops=flops)


class Oracle(Surprisal):
    """The last three quarters of n, and the tokens before these that occur in the target.

    Among them, and if there are too few, the least predictable ones. It has seen the target, so it
    is no way to read: it shows what choosing tokens one by one could be worth beside recency.
    """

    note = "it has seen the target"
    recent = 0.75

    def look(self, reader: CausalReader, tokens: Tokens, window: Window) -> Tensor:
        nats = super().look(reader, tokens, window)
        return nats + 1e6 * torch.isin(tokens.context, tokens.target)

    def take(self, seen: Tensor, reader: CausalReader, tokens: Tokens, n: int) -> Chosen:
        scores = seen.clone()
        scores[tokens.L - int(self.recent * n) :] = torch.inf
        return super().take(scores, reader, tokens, n)
