"""A causal language model that predicts targets: its tokens, passes and their costs."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from terse.corpora.tokenizers import plain_backend
from terse.errors import TerseError
from terse.evaluation.flops import PassFlops, lm_flops
from terse.evaluation.frontier.reading import Cost, Reading
from terse.evaluation.frontier.windows import Window
from terse.models.loading import max_context

KeysValues = list[tuple[Tensor, Tensor]]  # of each layer: keys, values (1, H, n, D)


@dataclass(frozen=True)
class Tokens:
    """A window in a reader's tokens: context (L,) and target (m,), without a start token."""

    context: Tensor
    target: Tensor

    @property
    def L(self) -> int:  # noqa: N802
        """Tokens of the context."""
        return len(self.context)

    @property
    def m(self) -> int:
        """Tokens of the target."""
        return len(self.target)


class CausalReader:
    """A causal language model with its tokenizer; passes are of one window at a time.

    Before each context is a start token (BOS, or EOS where there is none), which is held in
    addition to the context's positions.
    """

    def __init__(self, lm: PreTrainedModel, tokenizer: Any) -> None:
        self.lm = lm.eval()
        self._core = plain_backend(tokenizer)
        self.start = _start(tokenizer)
        self.flops: PassFlops = lm_flops(lm)
        self._sliced = "logits_to_keep" in inspect.signature(lm.forward).parameters

    def tokens(self, window: Window) -> Tokens:
        """Return a window's context and target, tokenised apart.

        Raises TerseError if they are longer than the model's positions.
        """
        context, target = (
            torch.tensor(self._core.encode(text).ids, device=self.lm.device)
            for text in (window.context, window.target)
        )
        found, limit = Tokens(context, target), self.limit
        if limit is not None and found.L + found.m > limit:
            size = window.context_bytes + window.target_bytes
            raise TerseError(
                f"a window of {size} bytes has {found.L + found.m} tokens, but the reader has "
                f"{limit} positions: lower context_bytes to about "
                f"{max(1, size * limit // (found.L + found.m) - window.target_bytes)}"
            )
        return found

    @cached_property
    def limit(self) -> int | None:
        """The model's positions, None if there is no limit."""
        return max_context(self.lm)

    def token_ends(self, text: str) -> list[int]:
        """Return where each token of a text ends, in characters."""
        return [end for _, end in self._core.encode(text).offsets]

    def prefill(self, tokens: Tokens) -> KeysValues:
        """Return the keys and values of [start, context without its last token], L positions.

        Raises TerseError for a model that does not hold them all, or does not look at all of them.
        """
        window = self._attention_window
        if window is not None and tokens.L + tokens.m > window:
            raise TerseError(
                f"the reader, a {type(self.lm).__name__}, has layers that see {window} positions "
                f"only, fewer than a window's {tokens.L + tokens.m}: lower context_bytes"
            )
        ids = self._begun(tokens.context[:-1])
        output = self.lm.base_model(input_ids=ids, use_cache=True)
        return self.whole_cache(output, ids.shape[1])

    def whole_cache(self, output: Any, n: int) -> KeysValues:
        """Return the keys and values of n positions from a pass with a cache."""
        layers = getattr(getattr(output, "past_key_values", None), "layers", None) or []
        found = [(getattr(x, "keys", None), getattr(x, "values", None)) for x in layers]
        if not found or any(k is None or k.ndim != 4 or k.shape[2] != n for k, _ in found):
            raise TerseError(
                f"the reader, a {type(self.lm).__name__}, has no cache of the keys and values of "
                "all tokens, so none can be evicted"
            )
        return found  # type: ignore[return-value]

    @cached_property
    def _attention_window(self) -> int | None:
        """The positions that a layer sees, None if all layers see all."""
        config = self.lm.config.get_text_config(decoder=True)
        kinds = getattr(config, "layer_types", None) or ["sliding_attention"]
        return getattr(config, "sliding_window", None) if "sliding_attention" in kinds else None

    @cached_property
    def has_cache(self) -> bool:
        """Whether the model holds the keys and values of all tokens."""
        two = torch.full((2,), self.start, device=self.lm.device)
        try:
            self.prefill(Tokens(two, two))
        except TerseError:
            return False
        return True

    def read_after(self, held: KeysValues, tokens: Tokens, position: int) -> float:
        """Return the target's nats after held keys and values and the context's last token.

        position: of the context's last token. Costs m positions after those held.
        """
        cache = DynamicCache()
        for layer, (keys, values) in enumerate(held):
            cache.update(keys, values, layer)
        ids = torch.cat([tokens.context[-1:], tokens.target[:-1]])[None]
        past = held[0][0].shape[2]
        return self._nats(
            ids, tokens.target, position + torch.arange(ids.shape[1], device=ids.device),
            mask=ids.new_ones(1, past + ids.shape[1]), past_key_values=cache, use_cache=True,
        )  # fmt: skip

    def read_after_each(
        self, held: Sequence[KeysValues], tokens: Tokens, positions: Sequence[int]
    ) -> list[float]:
        """Return `read_after` of several caches of one context, computed in one pass.

        Fewer held keys and values are padded to as many as most, so a value can differ from that
        of a pass of its own in its last digits.
        """
        if len(held) == 1:
            return [self.read_after(held[0], tokens, positions[0])]
        counts = [one[0][0].shape[2] for one in held]
        n, cache = max(counts), DynamicCache()
        for layer, pairs in enumerate(zip(*held, strict=True)):
            keys, values = (_padded(x, n) for x in zip(*pairs, strict=True))
            cache.update(keys, values, layer)
        ids = torch.cat([tokens.context[-1:], tokens.target[:-1]]).expand(len(held), -1)
        mask = ids.new_ones(len(held), n + ids.shape[1])
        for row, count in zip(mask, counts, strict=True):
            row[: n - count] = 0
        first = torch.tensor(positions, device=ids.device)[:, None]
        places = self._places(first + torch.arange(ids.shape[1], device=ids.device))
        options = {"attention_mask": mask, "past_key_values": cache, "use_cache": True} | places
        return self._target_nats(ids, tokens.target, **options).tolist()

    def read_anew(self, context: Tensor, target: Tensor, positions: Tensor | None = None) -> float:
        """Return the nats of a target (m,) after [start, some tokens (n,)], in one pass.

        positions: of these tokens and of the target, (n + m,), counted from 1, the start token's
        being 0; None: dense. Costs n + m positions.
        """
        ids = self._begun(torch.cat([context, target[:-1]]))
        if positions is None:
            positions = torch.arange(1, ids.shape[1] + 1, device=ids.device)
        places = torch.cat([positions.new_zeros(1), positions[:-1]])
        return self._nats(ids, target, places, mask=torch.ones_like(ids), use_cache=False)

    def token_nats(self, context: Tensor) -> Tensor:
        """Return the nats (L,) of each token of a context (L,) after those before it.

        Costs L positions with the head at each.
        """
        ids = self._begun(context[:-1])
        logits = self.lm(input_ids=ids, use_cache=False).logits[0]
        return nn.functional.cross_entropy(logits.float(), context, reduction="none")

    def _begun(self, tokens: Tensor) -> Tensor:
        return torch.cat([tokens.new_tensor([self.start]), tokens])[None]

    def _nats(
        self, ids: Tensor, target: Tensor, places: Tensor, *, mask: Tensor, **options: Any
    ) -> float:
        """Return the nats of a target (m,), predicted at the last m positions of a pass.

        The mask of ones is needed: without it transformers takes a gap in positions for the border
        of two packed texts.
        """
        first = mask.shape[1] - len(places)
        if not torch.equal(places, first + torch.arange(len(places), device=places.device)):
            options |= self._places(places[None])
        return float(self._target_nats(ids, target, attention_mask=mask, **options))

    def _target_nats(self, ids: Tensor, target: Tensor, **options: Any) -> Tensor:
        """Return the summed nats (B,) of a target (m,) in each row, predicted at its last m."""
        m = len(target)
        if self._sliced:
            options["logits_to_keep"] = m
        logits = self.lm(input_ids=ids, **options).logits[:, -m:].float()
        nats = nn.functional.cross_entropy(
            logits.flatten(0, 1), target.repeat(len(ids)), reduction="none"
        )
        return nats.double().view(len(ids), m).sum(1)

    def _places(self, places: Tensor) -> dict[str, Tensor]:
        if "position_ids" not in inspect.signature(self.lm.forward).parameters:
            raise TerseError(
                f"the reader, a {type(self.lm).__name__}, has no positions that can have gaps"
            )
        return {"position_ids": places}

    @cached_property
    def bytes_per_position(self) -> float:
        """Bytes of the keys and values of one position; NaN for a model without a cache."""
        if not self.has_cache:
            return float("nan")
        two = torch.full((2,), self.start, device=self.lm.device)
        pairs = self.prefill(Tokens(two, two))
        return sum(x.numel() * x.element_size() for pair in pairs for x in pair) / len(two)

    def cost(
        self,
        rate: float,
        nats: float,
        tokens: Tokens,
        *,
        held: float,
        computed: float,
        flops: float,
        dimensions: Mapping[str, float] | None = None,
    ) -> Cost:
        """Return the cost of a window whose held positions are the model's keys and values."""
        return Cost(
            rate, nats, tokens.m, tokens.L, held, computed, flops, held * self.bytes_per_position,
            dimensions or {},
        )  # fmt: skip

    def anew_flops(self, n: int, m: int) -> float:
        """Return the FLOPs of `read_anew` of n tokens and a target of m."""
        return float(self.flops.total(n + m, m))

    def after_flops(self, n: int, m: int) -> float:
        """Return the FLOPs of `read_after` n held positions, for a target of m."""
        return float(self.flops.total(m, m, past=n))


class CausalReading(Reading):
    """A way to read with a causal language model, which holds what is left of a context."""

    reader: CausalReader

    @property
    def holder(self) -> nn.Module:
        return self.reader.lm


def _padded(parts: Sequence[Tensor], n: int) -> Tensor:
    """Return keys or values (1, H, up to n, D) as one batch, zeros before the shorter ones."""
    return torch.cat([nn.functional.pad(x, (0, 0, n - x.shape[2], 0)) for x in parts])


def _start(tokenizer: Any) -> int:
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if isinstance(token, int):
            return token
    raise TerseError("the reader's tokenizer has neither BOS nor EOS to start a text with")
