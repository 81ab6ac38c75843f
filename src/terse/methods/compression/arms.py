"""The ways to give a model its context, all scored on the same targets."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from terse.methods.compression.frozen_lm import embed, hidden_state, logits_of
from terse.methods.compression.model import Batch, Compressor


@dataclass(frozen=True)
class ScoredBatch:
    """A batch, contexts of other documents for it, and the token that starts an empty context."""

    batch: Batch
    others: Batch
    start: int


def low(model: Compressor, at: ScoredBatch) -> Tensor:
    """No context: the text begins with the overlap, if there is one, or with the targets."""
    start = torch.full_like(at.batch.target[:, :1], at.start)
    return model.read(embed(model.lm, start), at.batch.target, at.batch.target_mask)


def high(model: Compressor, at: ScoredBatch) -> Tensor:
    """All tokens of the context."""
    return model.read_context(at.batch)


def compressed(model: Compressor, at: ScoredBatch) -> Tensor:
    """The context's vectors."""
    return _read(model, at, model.compress(at.batch.context, at.batch.context_mask))


def static(model: Compressor, at: ScoredBatch) -> Tensor:
    """A soft prompt that was trained on the same batches without context."""
    prefix = model.static_prefix(len(at.batch.target))
    return model.read(prefix, at.batch.target, at.batch.target_mask)


def shuffled(model: Compressor, at: ScoredBatch) -> Tensor:
    """The vectors of a context from another document."""
    return _read(model, at, model.compress(at.others.context, at.others.context_mask))


def tail(model: Compressor, at: ScoredBatch) -> Tensor:
    """The last raw tokens of the context, as many as the vectors and the cue."""
    batch, o = at.batch, model.settings.seq_overlap
    stop = batch.context.shape[1] - o  # the overlap itself follows anyway
    kept = slice(max(0, stop - model.n_vectors - 1), stop)
    tokens = torch.cat([batch.context[:, kept], batch.target[:, :-1]], 1)
    mask = torch.cat([batch.context_mask[:, kept], batch.target_mask[:, :-1]], 1)
    return logits_of(model.lm, embed(model.lm, tokens), mask, batch.target.shape[1])


def mean_pool(model: Compressor, at: ScoredBatch) -> Tensor:
    """Means of the context's hidden states at `cmp_layer` over c equal parts, as the vectors.

    With fewer than c tokens, neighbouring parts share them. A frozen model has never read a mean,
    so this can be far worse than `low`.
    """
    s, batch = model.settings, at.batch
    tokens = batch.context.reshape(len(batch.context) * s.n_spans, -1)  # (B S, k)
    mask = batch.context_mask.reshape(len(tokens), -1)
    embeds = embed(model.lm, tokens)
    states = embeds if model.layer is None else hidden_state(model.lm, embeds, mask, model.layer)
    pooled = model.project(part_means(states.float(), mask, s.n_cmps))
    return _read(model, at, pooled.reshape(len(batch.context), model.n_vectors, -1))


def part_means(states: Tensor, mask: Tensor, n_parts: int) -> Tensor:
    """Return the means (B, c, H) of c equal parts of the real states among (B, k, H)."""
    rank = (mask.cumsum(1) - 1)[:, None]  # (B, 1, k)
    n, part = mask.sum(1)[:, None], torch.arange(n_parts, device=mask.device)
    first = part * n // n_parts  # (B, c)
    stop = torch.maximum(first + 1, (part + 1) * n // n_parts)
    inside = (rank >= first[..., None]) & (rank < stop[..., None]) & mask[:, None].bool()
    return inside.float() @ states / inside.sum(-1, keepdim=True).clamp(min=1)  # (B, c, H)


def _read(model: Compressor, at: ScoredBatch, Z: Tensor) -> Tensor:
    return model.read(model.prefix(Z, model.cue), at.batch.target, at.batch.target_mask)


ARMS: dict[str, Callable[[Compressor, ScoredBatch], Tensor]] = {
    "low": low,
    "high": high,
    "compressed": compressed,
    "static": static,
    "shuffled": shuffled,
    "tail": tail,
    "mean_pool": mean_pool,
}


def arms_of(model: Compressor) -> list[str]:
    """Return the names of the arms in which a compressor can be scored."""
    missing = {"static": model.static is None, "mean_pool": model.cached}
    return [arm for arm in ARMS if not missing.get(arm)]
