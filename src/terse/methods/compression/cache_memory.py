"""A context as keys and values of all layers at a few positions, instead of as embeddings.

As gist tokens (https://arxiv.org/abs/2304.08467) are read, with a LoRA that acts at these positions
only, as in Activation Beacon (https://arxiv.org/abs/2401.03462): the context itself is read by the
frozen model without a gradient.
"""

import inspect
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from terse.errors import TerseError
from terse.methods.compression.frozen_lm import embed, keeping
from terse.methods.compression.lora import lora_enabled
from terse.models.generation import plain_generation


@dataclass(frozen=True)
class MemoryPrefix:
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

    def followed_by(self, embeds: Tensor) -> "MemoryPrefix":
        """Return the same with more embeddings (B, q, E) at the end."""
        both = torch.cat([self.embeds, embeds.to(self.embeds.dtype)], 1)
        return replace(self, embeds=both)


class CacheMemory:
    """Writes contexts into keys and values, and reads what follows after these.

    start: the token before each context when it is written, and at position 0 when it is read. It
    is not part of the memory.
    """

    def __init__(self, lm: PreTrainedModel, start: int) -> None:
        self.lm, self.start = lm, start

    def written(
        self, tokens: Tensor, mask: Tensor, last: Tensor, rows: Tensor, n: int, *, lora: bool
    ) -> Tensor:
        """Return the keys and values (B, n, W), float32, at the last n of rows (B, r, E).

        The rows follow contexts (B, k), whose last tokens have positions `last` (B,). The gradient
        goes into the rows and the LoRA. Raises TerseError for a model whose cache does not hold the
        keys and values of all positions.
        """
        # The start token stands directly before the text, also for models that count by index.
        place = tokens.shape[1] - mask.sum(1, keepdim=True)
        tokens = nn.functional.pad(tokens, (1, 0)).scatter(1, place, self.start)
        mask = nn.functional.pad(mask, (1, 0)).scatter(1, place, 1)
        places = last[:, None] - mask.sum(1, keepdim=True) + mask.cumsum(1)  # (B, 1 + k)
        with torch.no_grad():
            cache = self._pass(embed(self.lm, tokens), mask, places.clamp(min=0))
        after = last[:, None] + 1 + torch.arange(rows.shape[1], device=mask.device)
        mask = torch.cat([mask, mask.new_ones(rows.shape[:2])], 1)
        with lora_enabled(self.lm, lora):
            cache = self._pass(rows, mask, after, cache)
        parts = [x[:, :, -n:].transpose(1, 2).flatten(2) for pair in _pairs(cache) for x in pair]
        return torch.cat(parts, -1).float()  # of each layer: keys, values

    def read(self, prefix: MemoryPrefix, mask: Tensor | None = None, n_last: int = 1) -> Any:
        """Return the model's output, with its cache and the last n logits, after a prefix.

        mask (B, p): of the prefix' embeddings; None: all are real.
        """
        B, p, _ = prefix.embeds.shape
        if mask is None:
            mask = torch.ones(B, p, dtype=torch.long, device=prefix.Z.device)
        first = torch.full_like(mask[:, :1], self.start)
        with torch.no_grad():
            begun = self._pass(
                embed(self.lm, first), torch.ones_like(first), torch.zeros_like(first)
            )
        places = prefix.first + torch.arange(p, device=mask.device)
        return self.lm(
            inputs_embeds=prefix.embeds.to(self.lm.dtype),
            attention_mask=torch.cat([mask.new_ones(B, 1 + prefix.Z.shape[1]), mask], 1),
            past_key_values=_with_memory(begun, prefix.Z), use_cache=True,
            **_at(self.lm, places.expand(B, -1)), **keeping(self.lm, n_last),
        )  # fmt: skip

    @torch.no_grad()
    def generate(self, prefix: MemoryPrefix, n: int) -> Tensor:
        """Return n tokens (B, n), or fewer if all rows ended, that the model writes greedily.

        A row that has ended is padded, as by transformers' `generate`.
        """
        config = plain_generation(self.lm)
        end: Any = config.eos_token_id
        ends = [] if end is None else [end] if isinstance(end, int) else list(end)
        pad = config.pad_token_id if config.pad_token_id is not None else (ends or [0])[0]
        output = self.read(prefix)
        B, held, place = len(prefix.Z), 1 + prefix.shape[1], prefix.first + prefix.embeds.shape[1]
        over = torch.zeros(B, 1, dtype=torch.bool, device=prefix.Z.device)
        found: list[Tensor] = []
        while True:
            best = output.logits[:, -1].argmax(-1, keepdim=True)
            found.append(torch.where(over, pad, best))
            over = over | torch.isin(best, torch.tensor(ends, device=best.device))
            if len(found) == n or bool(over.all()):
                return torch.cat(found, 1)
            held += 1
            output = self.lm(
                input_ids=found[-1], attention_mask=best.new_ones(B, held),
                past_key_values=output.past_key_values, use_cache=True,
                **_at(self.lm, torch.full_like(best, place)),
            )  # fmt: skip
            place += 1

    def _pass(self, embeds: Tensor, mask: Tensor, places: Tensor, cache: Any = None) -> Any:
        """Return the cache after a pass over embeddings (B, T, E) at positions (B, T)."""
        body = self.lm.base_model
        output = body(
            inputs_embeds=embeds.to(self.lm.dtype), attention_mask=mask, past_key_values=cache,
            use_cache=True, **_at(body, places),
        )  # fmt: skip
        found = getattr(output, "past_key_values", None)
        if not (pairs := _pairs(found)) or any(
            x is None or x.ndim != 4 or x.shape[2] != mask.shape[1] for pair in pairs for x in pair
        ):
            raise TerseError(
                f"memory: cache needs the keys and values of all positions, which a "
                f"{type(self.lm).__name__} does not hold: use memory: vectors"
            )
        return found


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


def _at(module: nn.Module, places: Tensor) -> dict[str, Tensor]:
    """Return positions (B, T) as an option, unless a model counts them itself, as BLOOM does."""
    known = "position_ids" in inspect.signature(module.forward).parameters
    return {"position_ids": places} if known else {}


def _pairs(cache: Any) -> list[tuple[Any, Any]]:
    layers = getattr(cache, "layers", None) or []
    return [(getattr(x, "keys", None), getattr(x, "values", None)) for x in layers]
