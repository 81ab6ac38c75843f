"""LLMLingua's token-level compression in its plain form, without instruction or question.

As the package llmlingua 0.2.2 computes it, with the reader itself as the small model
(https://arxiv.org/abs/2310.05736).
"""

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from terse.evaluation.frontier.choices import Choice, Chosen
from terse.evaluation.frontier.reader import CausalReader, Tokens
from terse.evaluation.frontier.windows import Window

SEGMENT = 200  # tokens that are compressed at a time


class LLMLingua(Choice):
    """Drops tokens segment by segment, each scored after the compressed segments before it.

    Like the package, it keeps the token *before* a badly predicted one, and leaves whole what
    follows the last whole segment; so it keeps more than a low rate says.
    """

    def look(self, reader: CausalReader, tokens: Tokens, window: Window) -> Tensor:
        """Return the nats of each token but the first after the original text, (L - 1,)."""
        logits = reader.lm(input_ids=tokens.context[None], use_cache=False).logits
        return _nats_of(logits, tokens.context)

    def take(self, seen: Tensor, reader: CausalReader, tokens: Tokens, n: int) -> Chosen:
        if n == tokens.L:
            return Chosen(torch.arange(n, device=seen.device))
        return Segments(reader, tokens.context, seen).compressed(n)


class Segments:
    """A context (L,) during its compression.

    kept: the indices that are left, in order. losses: nats of each of them but the first, as far
    as they are computed after the compressed text; before that, after the original text, which is
    what is given (L - 1,) and counted as one pass.
    """

    def __init__(self, reader: CausalReader, context: Tensor, losses: Tensor) -> None:
        self.reader, self.context, self.losses = reader, context, losses
        self.kept = torch.arange(L := len(context), device=context.device)
        self.computed, self.flops = float(L), float(reader.flops.total(L, L))
        self._cache = DynamicCache()

    def compressed(self, n: int) -> Chosen:
        """Return the tokens that are left when about n are asked for, and the passes made."""
        L = len(self.context)
        share = n / (L + 3)  # the package counts three tokens that are not there
        end, scored = min(SEGMENT, L), 0
        for segment, size in enumerate(segment_sizes(L)):
            if end > len(self.kept):
                break
            if segment > 0:
                fresh = self._nats(scored, end, self._cache)
                self.losses = torch.cat([self.losses[:scored], fresh, self.losses[end - 1 :]])
                self._cache.crop(-SEGMENT)
                scored = end - SEGMENT
            last = end - SEGMENT + size
            end = SEGMENT + last - self._drop(last, size, share)
        return Chosen(self.kept, self.computed, self.flops)

    def _nats(self, first: int, last: int, cache: DynamicCache) -> Tensor:
        """Return the nats of kept tokens first + 1 .. last - 1, (last - first - 1,).

        cache: of the first ones; the others are added.
        """
        ids = self.context[self.kept[first:last]]
        logits = self.reader.lm(input_ids=ids[None], past_key_values=cache, use_cache=True).logits
        self.computed += len(ids)
        self.flops += float(self.reader.flops.total(len(ids), len(ids), past=first))
        return _nats_of(logits, ids)

    def _drop(self, last: int, size: int, share: float) -> int:
        """Drop tokens of the segment that ends at `last`, and return how many before `last`."""
        at = max(0, min(len(self.losses) - 1, int(len(self.losses) * share) - 1))
        threshold = self.losses.sort(descending=True).values[at]
        keep = torch.cat([self.losses > threshold, self.losses[:1] > 0])
        keep[last:] = True
        keep[: last - size] = True
        self.kept, self.losses = self.kept[keep], self.losses[keep[:-1]]
        return int((~keep[:last]).sum())


def _nats_of(logits: Tensor, ids: Tensor) -> Tensor:
    """Return the nats of each id but the first (n - 1,) under the logits (1, n, V)."""
    return nn.functional.cross_entropy(logits[0, :-1].float(), ids[1:], reduction="none")


def segment_sizes(L: int) -> list[int]:
    """Return the sizes of the segments of L tokens, as the package counts them."""
    if L + 3 < SEGMENT:
        return [L + 2]
    whole, rest = divmod(L + 3 - SEGMENT, SEGMENT)
    return [SEGMENT - 1, *([SEGMENT] * whole), *([rest] if rest else [])]
