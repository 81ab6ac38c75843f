"""Generation with a mask: decisions are never revised, and the cache holds only kept tokens."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from transformers import DynamicCache

from terse.corpora.places import evenly
from terse.errors import TerseError
from terse.evaluation.overlap import bleu, rouge_l
from terse.methods.forgetting.decisions import decide, droppable
from terse.methods.forgetting.evaluation import Evaluated
from terse.methods.forgetting.model import Forgetter
from terse.methods.forgetting.modes import hiding_masks
from terse.methods.forgetting.packing import pack
from terse.methods.forgetting.windows import FULL, attention_masks, layer_kinds


class Writer:
    """Generates after prompts with a causal mask.

    The next prediction always sees the last token; once another follows, it is forgotten or kept
    for good. So `pack`, where a dropped token never enters the model together with later ones, and
    `kv`, where it is processed and then hidden, give the same text; they differ in the cost of the
    prompt. (`kv` always has original positions and measures the windows of sliding layers in them;
    `pack` counts the remaining tokens.) forget_p 0 keeps all.
    """

    def __init__(self, model: Forgetter, forget_p: float, mode: str = "pack") -> None:
        s = model.settings
        if forget_p > 0 and not s.decides_at_once:
            raise TerseError(
                f"mask {s.mask} with decide {s.decide} would revise decisions during generation: "
                "use a causal learned mask with decide calibrated or threshold"
            )
        self.model, self.forget_p, self.mode = model, forget_p, mode

    def keeps(self, ids: Tensor, real: Tensor) -> Tensor:
        """Return the final decisions (B, T), each from the tokens up to it; padding is dropped."""
        if self.forget_p == 0:
            return real
        s = self.model.settings
        free = droppable(ids, real, self.model.special_ids, s.protect_first, 0)
        logits = self.model.mask(ids, real).float()
        threshold = torch.logit(torch.tensor(s.threshold)).item()
        if s.decide == "calibrated" and self.model.calibration is not None:
            threshold = self.model.calibration.threshold(self.forget_p)
        return real & decide(logits, s.decide, droppable=free, threshold=threshold)

    def write(self, ids: Tensor, real: Tensor, n: int) -> tuple[Tensor, Any]:
        """Return n >= 1 greedily generated tokens (B, n) after prompts (B, T), and the cache.

        real (B, T) bool: prompts are padded on the right.
        """
        written = list(islice(self.steps(ids, real), n))
        return torch.stack([tokens for tokens, _ in written], 1), written[-1][1]

    @torch.no_grad()
    def steps(self, ids: Tensor, real: Tensor) -> Iterator[tuple[Tensor, "Cache"]]:
        """Yield the next tokens (B,) after prompts (B, T), and the cache, indefinitely."""
        text = Text(ids, real)
        logits, cache = self._prefill(text)
        while True:
            tokens = logits.argmax(-1)
            text.append(tokens)
            yield tokens, cache
            logits = self._step(text, cache)

    def _prefill(self, text: "Text") -> tuple[Tensor, "Cache"]:
        """Return the logits (B, V) after the prompts, and a cache of their kept tokens."""
        keep = self.keeps(text.ids, text.real)
        seen = keep | text.is_last()
        if self.mode == "kv":
            return self._prefill_hidden(text, keep)
        packed = pack(
            text.ids, seen, text.real, pad_id=self.model.pad_id, positions=self._positions
        )
        found = self.model.lm(
            input_ids=packed.input_ids,
            attention_mask=packed.attention_mask.long(),
            position_ids=packed.position_ids,
            past_key_values=DynamicCache(),
            use_cache=True,
        )
        cache = Cache(found.past_key_values, packed.attention_mask, packed.src_index)
        cache.retain(keep.gather(1, packed.src_index) & packed.attention_mask)
        rows = torch.arange(len(text.ids), device=text.ids.device)
        return found.logits[rows, packed.lengths - 1], cache

    def _prefill_hidden(self, text: "Text", keep: Tensor) -> tuple[Tensor, "Cache"]:
        found = self.model.lm(
            input_ids=text.ids,
            attention_mask=hiding_masks(self.model.lm, keep),
            past_key_values=DynamicCache(),
            use_cache=True,
        )
        cache = Cache(found.past_key_values, text.real, _places(text.ids))
        cache.retain(keep)
        rows = torch.arange(len(text.ids), device=text.ids.device)
        return found.logits[rows, text.lengths - 1], cache

    @property
    def _positions(self) -> str:
        return "original" if self.mode == "kv" else self.model.settings.positions

    def _step(self, text: "Text", cache: "Cache") -> Tensor:
        """Feed the last token of each row; keep its keys and values if it is kept."""
        last = text.lengths[:, None] - 1
        places = last if self._positions == "original" else cache.lengths[:, None]
        cache.append(last)
        found = self.model.lm(
            input_ids=text.ids.gather(1, last),
            attention_mask=self._mask(cache),
            position_ids=places,
            past_key_values=cache.states,
            use_cache=True,
        )
        kept = cache.visible.clone()
        kept[:, -1:] = self.keeps(text.ids, text.real).gather(1, last)
        cache.retain(kept)
        return found.logits[:, -1]

    def _mask(self, cache: "Cache") -> Any:
        """Return the attention mask of each row's last token over the cache, windows included."""
        if layer_kinds(self.model.lm) == {FULL}:
            return cache.visible.long()
        ranks = cache.visible.long().cumsum(1) - 1
        places = cache.places if self.mode == "kv" else ranks
        return attention_masks(self.model.lm, cache.visible[:, None], places[:, -1:], places)


class BlockWriter(Writer):
    """Generates after prompts with given decisions; generated tokens are kept, as a block is.

    decisions (B, T): the kept tokens of the prompts, including the last ones.
    """

    def __init__(self, model: Forgetter, decisions: Tensor) -> None:
        super().__init__(model, 0.0)
        self.decisions = decisions

    def keeps(self, ids: Tensor, real: Tensor) -> Tensor:
        n_written = ids.shape[1] - self.decisions.shape[1]
        return real & torch.nn.functional.pad(self.decisions, (0, n_written), value=True)


class Text:
    """Growing rows: ids, real (B, T), right-padded; lengths (B,)."""

    def __init__(self, ids: Tensor, real: Tensor) -> None:
        self.ids, self.real = ids, real.bool()

    @property
    def lengths(self) -> Tensor:
        return self.real.sum(1)

    def is_last(self) -> Tensor:
        """Return the last real token of each row, (B, T)."""
        place = torch.arange(self.ids.shape[1], device=self.ids.device)
        return place == self.lengths[:, None] - 1

    def append(self, tokens: Tensor) -> None:
        """Append a token (B,) to each row."""
        lengths = self.lengths[:, None]
        self.ids, self.real = (_with_a_place(x) for x in (self.ids, self.real))
        self.ids = self.ids.scatter(1, lengths, tokens[:, None])
        self.real = self.real.scatter(1, lengths, torch.ones_like(lengths, dtype=torch.bool))


def _places(ids: Tensor) -> Tensor:
    """Return the position of each token of rows (B, T)."""
    return torch.arange(ids.shape[1], device=ids.device).expand_as(ids)


def _with_a_place(x: Tensor) -> Tensor:
    """Return rows (B, T) with an empty position appended."""
    return torch.nn.functional.pad(x, (0, 1))


class Cache:
    """Keys and values; visible (B, n): those that belong to a token of the row, in front.

    places (B, n): the positions of these tokens in the text.
    """

    def __init__(self, states: DynamicCache, visible: Tensor, places: Tensor) -> None:
        self.states, self.visible, self.places = states, visible, places

    @property
    def lengths(self) -> Tensor:
        """The number of tokens (B,) in each row's cache."""
        return self.visible.sum(1)

    def append(self, last: Tensor) -> None:
        """Make room for a token of each row, at its position (B, 1)."""
        self.visible = torch.cat([self.visible, torch.ones_like(last, dtype=torch.bool)], 1)
        self.places = torch.cat([self.places, last], 1)

    def retain(self, kept: Tensor) -> None:
        """Keep only these entries (B, n), moved to the front."""
        order = torch.argsort((~kept).byte(), dim=1, stable=True)[:, : int(kept.sum(1).max())]
        layers: Any = self.states.layers
        for layer in layers:
            layer.keys, layer.values = (_chosen(x, order) for x in (layer.keys, layer.values))
        self.visible, self.places = kept.gather(1, order), self.places.gather(1, order)


def _chosen(states: Any, order: Tensor) -> Tensor:
    """Return the entries (B, m) of states (B, H, n, D)."""
    _, H, _, D = states.shape
    return states.gather(2, order[:, None, :, None].expand(-1, H, -1, D))


def continuations_table(given: Evaluated, n: int | None = None) -> pd.DataFrame:
    """Return the similarity of continuations to the real ones, a row per forget rate, 0 first.

    The contexts of n windows, each of another document, are continued for one block.
    """
    model, s = given.model, given.model.settings
    rates = [0.0, *s.eval_rates] if s.decides_at_once else [0.0]
    ids, real, references = _prompts(given, n or s.n_samples)
    found = []
    for rate in rates:
        written, cache = Writer(model, rate).write(ids, real, references.shape[1])
        pairs = list(zip(written.tolist(), references.tolist(), strict=True))
        found.append(
            {
                "forget_rate": rate,
                "bleu4": sum(bleu(a, b) for a, b in pairs) / len(pairs),
                "rouge_l": sum(rouge_l(a, b) for a, b in pairs) / len(pairs),
                "same_tokens": sum(a == b for x, y in pairs for a, b in zip(x, y, strict=True))
                / references.numel(),
                "cached_positions": float(cache.lengths.float().mean()),
                "n": len(pairs),
            }
        )
    return pd.DataFrame(found)


def _prompts(given: Evaluated, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return n contexts (n, C), their real tokens (n, C), and the blocks that follow, (n, S)."""
    lengths = given.model.settings
    whole = lengths.context_len + lengths.block_len
    items = [item for item in map(given.rows.__getitem__, range(len(given.rows)))  # type: ignore[arg-type]
             if int(item["attention_mask"].sum()) == whole]  # fmt: skip
    items = items or [given.rows[0]]
    chosen = [items[i] for i in evenly(len(items), n)]
    ids = torch.stack([item["input_ids"] for item in chosen]).to(given.device)
    n_context = int((chosen[0]["attention_mask"] & ~chosen[0]["is_target"]).sum())
    n_real = min(int(item["attention_mask"].sum()) for item in chosen)
    context, block = ids[:, :n_context], ids[:, n_context:n_real]
    return context, torch.ones_like(context, dtype=torch.bool), block
