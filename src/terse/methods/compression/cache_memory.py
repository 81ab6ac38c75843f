"""A context as keys and values of all layers at a few positions, instead of as embeddings.

As gist tokens (https://arxiv.org/abs/2304.08467) are read, with a LoRA that acts at these positions
only, as in Activation Beacon (https://arxiv.org/abs/2401.03462): the context itself is read by the
frozen model without a gradient. A start token is at position 0 of every pass and is not part of
the memory.
"""

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from terse.errors import TerseError
from terse.methods.compression.frozen_lm import embed, keeping
from terse.methods.compression.lora import lora_enabled


@dataclass(frozen=True)
class Remembered:
    """What precedes a target: memory Z (B, c, W) of a context, and embeddings (B, p, E) after it.

    W: keys and values of all layers. first: the position of the first embedding.
    """

    Z: Tensor
    embeds: Tensor
    first: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """(B, c + p, E): positions held, but for the start token."""
        B, p, E = self.embeds.shape
        return B, self.Z.shape[1] + p, E

    def followed_by(self, embeds: Tensor) -> "Remembered":
        """Return the same with more embeddings (B, q, E) at the end."""
        return Remembered(
            self.Z, torch.cat([self.embeds, embeds.to(self.embeds.dtype)], 1), self.first
        )


@dataclass(frozen=True)
class Writing:
    """Contexts (B, k) to write into memory, with real tokens at the end, as their mask says.

    last: the position of each context's last token (B,).
    """

    tokens: Tensor
    mask: Tensor
    last: Tensor


def written(
    lm: PreTrainedModel, start: int, given: Writing, rows: Tensor, n: int, *, lora: bool
) -> Tensor:
    """Return the keys and values (B, n, W), float32, at the last n of rows (B, r, E).

    The rows follow the contexts. The gradient goes into them and the LoRA. Raises TerseError for
    a model whose cache does not hold the keys and values of all positions.
    """
    first = torch.full_like(given.tokens[:, :1], start)
    mask = torch.cat([torch.ones_like(first), given.mask], 1)
    places = given.last[:, None] - mask.sum(1, keepdim=True) + mask.cumsum(1)  # (B, 1 + k)
    with torch.no_grad():
        tokens = embed(lm, torch.cat([first, given.tokens], 1))
        cache = _pass(lm, tokens, mask, places.clamp(min=0))
    after = given.last[:, None] + 1 + torch.arange(rows.shape[1], device=mask.device)
    with lora_enabled(lm, lora):
        cache = _pass(lm, rows, torch.cat([mask, mask.new_ones(rows.shape[:2])], 1), after, cache)
    parts = [x[:, :, -n:].transpose(1, 2).flatten(2) for pair in _pairs(cache) for x in pair]
    return torch.cat(parts, -1).float()  # of each layer: keys, values


def logits_after(
    lm: PreTrainedModel, start: int, before: Remembered, mask: Tensor, n_last: int
) -> Tensor:
    """Return the logits (B, n_last, V) at the last embeddings; mask (B, p): of the embeddings."""
    return _reading(lm, start, before, mask, n_last).logits[:, -n_last:]


@torch.no_grad()
def written_from(lm: PreTrainedModel, start: int, before: Remembered, n: int) -> Tensor:
    """Return n tokens (B, n), or fewer if each row ended, that the model writes greedily."""
    mask = torch.ones(before.embeds.shape[:2], dtype=torch.long, device=before.Z.device)
    output = _reading(lm, start, before, mask, 1)
    end = lm.config.get_text_config().eos_token_id
    ends = torch.tensor([end] if isinstance(end, int) else end or [], device=mask.device)
    found = [output.logits[:, -1].argmax(-1, keepdim=True)]
    over = torch.isin(found[-1], ends)
    place = before.first + before.embeds.shape[1]
    while len(found) < n and not bool(over.all()):
        output = lm(
            input_ids=found[-1], past_key_values=output.past_key_values, use_cache=True,
            **_at(lm, torch.full_like(found[-1], place)),
        )  # fmt: skip
        place += 1
        found.append(output.logits[:, -1].argmax(-1, keepdim=True))
        over = over | torch.isin(found[-1], ends)
    return torch.cat(found, 1)


def prefilled(lm: PreTrainedModel, start: int, before: Remembered) -> Any:
    """Return the model's output, with its cache, after everything that precedes a target."""
    mask = torch.ones(before.embeds.shape[:2], dtype=torch.long, device=before.Z.device)
    return _reading(lm, start, before, mask, 1)


def _reading(lm: PreTrainedModel, start: int, before: Remembered, mask: Tensor, n_last: int) -> Any:
    B, c, _ = before.Z.shape
    first = torch.full((B, 1), start, device=mask.device)
    with torch.no_grad():
        begun = _pass(lm, embed(lm, first), torch.ones_like(first), torch.zeros_like(first))
    places = before.first + torch.arange(before.embeds.shape[1], device=mask.device)
    return lm(
        inputs_embeds=before.embeds.to(lm.dtype),
        attention_mask=torch.cat([mask.new_ones(B, 1 + c), mask], 1),
        past_key_values=_with_memory(begun, before.Z), use_cache=True,
        **_at(lm, places.expand(B, -1)), **keeping(lm, n_last),
    )  # fmt: skip


def _with_memory(begun: Any, Z: Tensor) -> DynamicCache:
    """Return a cache of the start token's keys and values, and those of the memory after it."""
    cache, taken = DynamicCache(), 0
    for layer, pair in enumerate(_pairs(begun)):
        both = []
        for held in pair:
            _, heads, _, width = held.shape
            part = Z[..., taken : taken + heads * width].unflatten(-1, (heads, width))
            both.append(torch.cat([held, part.transpose(1, 2).to(held.dtype)], 2))
            taken += heads * width
        cache.update(both[0], both[1], layer)
    return cache


def _pass(
    lm: PreTrainedModel, embeds: Tensor, mask: Tensor, places: Tensor, cache: Any = None
) -> Any:
    """Return the cache after a pass over embeddings (B, T, E) at positions (B, T)."""
    output = lm.base_model(
        inputs_embeds=embeds.to(lm.dtype), attention_mask=mask, past_key_values=cache,
        use_cache=True, **_at(lm.base_model, places),
    )  # fmt: skip
    found = getattr(output, "past_key_values", None)
    if not (pairs := _pairs(found)) or any(
        x is None or x.ndim != 4 or x.shape[2] != mask.shape[1] for pair in pairs for x in pair
    ):
        raise TerseError(
            f"memory: cache needs the keys and values of all positions, which a "
            f"{type(lm).__name__} does not hold: use memory: vectors"
        )
    return found


def _at(module: nn.Module, places: Tensor) -> dict[str, Tensor]:
    """Return positions (B, T) as an option, unless a model counts them itself, as BLOOM does."""
    known = "position_ids" in inspect.signature(module.forward).parameters
    return {"position_ids": places} if known else {}


def _pairs(cache: Any) -> list[tuple[Any, Any]]:
    layers = getattr(cache, "layers", None) or []
    return [(getattr(x, "keys", None), getattr(x, "values", None)) for x in layers]
