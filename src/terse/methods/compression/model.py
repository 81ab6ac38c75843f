"""A frozen causal language model that reads k tokens from c vectors.

Related: AutoCompressors (https://arxiv.org/abs/2305.14788), ICAE (https://arxiv.org/abs/2307.06945),
gist tokens (https://arxiv.org/abs/2304.08467).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from terse.errors import TerseError
from terse.methods.compression.cache_memory import CacheMemory, MemoryPrefix
from terse.methods.compression.frozen_lm import (
    blocks_of,
    embed,
    expected_embedding,
    hidden_state,
    layer_index,
    logits_of,
    written_after,
)
from terse.methods.compression.lora import add_lora, lora_enabled
from terse.methods.compression.losses import Sums, cross_entropy, divergence, soft_cross_entropy
from terse.methods.compression.settings import CompressionSettings

Prefix = Tensor | MemoryPrefix  # what precedes a target: embeddings (B, p, E), or a memory


@dataclass(frozen=True)
class Batch:
    """Windows as tensors: k context tokens, then the forward part (overlap, new tokens).

    context, context_mask: (B, k), real tokens at the end. target, target_mask: (B, n), real tokens
    at the start. is_new: (B, n), false on the overlap and on padding.
    """

    context: Tensor
    context_mask: Tensor
    target: Tensor
    target_mask: Tensor
    is_new: Tensor


class Compressor(nn.Module):
    """A frozen model and the trained rows.

    vectors: (c + 2 + sep, E), rows CMP_0..CMP_{c-1}, FWD, RMB, SEP. static: the control's prompt,
    (spans x c + 1, E). E is the width of the model's embeddings, H that of its hidden states.
    The state dict holds only trained tensors.
    """

    def __init__(
        self, lm: PreTrainedModel, settings: CompressionSettings, start: int | None = None
    ) -> None:
        super().__init__()
        self.settings, self.start = settings, start
        self.step = 0  # of the training, set by `callbacks.FollowStep`
        self.lm = lm.requires_grad_(False).eval()
        s, table = settings, _embeddings(lm)
        n_blocks = len(blocks_of(lm))
        self.layer = None if s.cmp_layer == "output" else layer_index(s.cmp_layer, n_blocks)
        if self.cached:
            self.layer = n_blocks
        device = table.device
        rows = rows_like(table, s.n_cmps + 2 + s.sep_cmpr)
        if s.cmp_tail:
            rows[: s.n_cmps] = 0
        self.vectors = nn.Parameter(rows.to(device))
        self.projection = self._projection(table)
        if s.lora_rank:
            add_lora(lm, s.lora_rank)
        prompt = rows_like(table, self.n_vectors + 1).to(device)  # last: no draw depends on it
        self.static = nn.Parameter(prompt) if s.static_control else None
        if s.train_embs:
            table.requires_grad_(True)
        if s.train_lmhead:
            _head(lm).requires_grad_(True)

    def _projection(self, table: Tensor) -> nn.Module | None:
        if self.cached:
            return None
        s, width = self.settings, self.lm.config.get_text_config().hidden_size
        into = table.shape[1]
        if not s.proj_cmpr:
            if self.layer is not None and width != into:
                raise TerseError(
                    f"hidden states are {width} wide, embeddings {into}: set proj_cmpr: true"
                )
            return None
        width = into if self.layer is None else width
        if s.proj_hid_mult is None:
            projection = nn.Linear(width, into)
            if width == into:
                nn.init.eye_(projection.weight)  # starts as the identity
            return projection.to(table.device)
        hidden = round(s.proj_hid_mult * width)
        layers = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, into))
        return layers.to(table.device)

    @property
    def cached(self) -> bool:
        """Whether a context becomes keys and values instead of embeddings."""
        return self.settings.memory == "cache"

    @property
    def memory(self) -> CacheMemory:
        """What writes and reads keys and values. Raises TerseError without a start token."""
        if self.start is None:
            raise TerseError("memory: cache needs the token that starts a text: give `start`")
        return CacheMemory(self.lm, self.start)

    @property
    def n_vectors(self) -> int:
        """The number of vectors of one context, over all spans."""
        return self.settings.n_spans * self.settings.n_cmps

    @property
    def hf_device_map(self) -> Any:
        """The device map of a model spread over devices; AttributeError if it is not spread."""
        return self.lm.hf_device_map

    @property
    def reproduces(self) -> bool:
        """Whether it also learns to reproduce the context, be it only at first."""
        return self.settings.reproduces

    @property
    def warms_up(self) -> bool:
        """Whether this is a training step in which the vectors only learn to reproduce."""
        return self.training and self.step < self.settings.rmb_warmup

    @property
    def cue(self) -> str:
        """The row between the vectors and the main task's targets."""
        return "remember" if self.settings.rmb_only else "forward"

    def cue_row(self, cue: str) -> Tensor:
        """Return the row (E,) that cues the continuation (`forward`) or the copy (`remember`)."""
        return self.vectors[self.settings.n_cmps + ("forward", "remember").index(cue)]

    def compress(self, context: Tensor, mask: Tensor) -> Tensor:
        """Return Z (B, spans x c, E) of contexts (B, spans x k) with masks of the same shape.

        With memory: cache E is the size of a position's keys and values.
        """
        s, B = self.settings, len(context)
        spans = context.reshape(B * s.n_spans, -1)  # (B S, k)
        real = mask.reshape(B * s.n_spans, -1)
        if self.cached:
            before = s.n_cmps * torch.arange(s.n_spans, device=context.device).repeat(B)
            return self.memory_of(spans, real, before).reshape(B, self.n_vectors, -1)
        rows = self._rows(spans, real)  # (B S, sep + c, E)
        embeds = torch.cat([embed(self.lm, spans).to(rows.dtype), rows], 1)
        real = torch.cat([real, real.new_ones(rows.shape[:2])], 1)
        with lora_enabled(self.lm, s.lora_rank > 0):
            if self.layer is None:
                states = expected_embedding(self.lm, logits_of(self.lm, embeds, real, s.n_cmps))
            else:
                states = hidden_state(self.lm, embeds, real, self.layer)[:, -s.n_cmps :]
        return self.project(states).reshape(B, self.n_vectors, -1)

    def memory_of(self, spans: Tensor, mask: Tensor, before: Tensor) -> Tensor:
        """Return the keys and values (B, c, E) that stand for spans (B, k) of a text.

        before: (B,), how many CMP rows of the same text precede them; positions go on after these.
        Raises TerseError for a span of more than k tokens.
        """
        s = self.settings
        if (longest := int(mask.sum(1).max())) > s.span:
            raise TerseError(f"a context of {longest} tokens: cmp_len is {s.span}")
        return self.memory.written(
            spans, mask, before + s.span, self._rows(spans, mask), s.n_cmps, lora=s.lora_rank > 0
        )

    def _rows(self, spans: Tensor, mask: Tensor) -> Tensor:
        """Return what follows each span (B, k): SEP, if there is one, and the CMP rows."""
        s, c = self.settings, self.settings.n_cmps
        rows = self.vectors[:c].expand(len(spans), -1, -1)
        if s.cmp_tail:
            k = spans.shape[1]
            place = torch.arange(k - c, k, device=spans.device).clamp(min=0)
            place = torch.maximum(place, k - mask.sum(1, keepdim=True)).clamp(max=k - 1)  # (B, c)
            rows = rows + embed(self.lm, spans.gather(1, place)).to(rows.dtype)
        if s.sep_cmpr:
            rows = torch.cat([self.vectors[-1:].expand(len(spans), -1, -1), rows], 1)
        return rows

    def project(self, states: Tensor) -> Tensor:
        """Return the vectors (B, c, E), float32, that the model reads, from states (B, c, H)."""
        states = states.float().to(self.vectors.device)
        return states if self.projection is None else self.projection(states)

    def prefix(self, Z: Tensor, cue: str) -> Prefix:
        """Return [Z; cue] (B, c + 1, E)."""
        row = self.cue_row(cue)[None]
        if not self.cached:
            return with_rows(Z, row)
        first = self.settings.span + self.settings.sep_cmpr + Z.shape[1] + 1
        return MemoryPrefix(Z, row.expand(len(Z), 1, -1), first)

    def read(self, prefix: Prefix, target: Tensor, mask: Tensor) -> Tensor:
        """Return the logits (B, n, V) of each target after a prefix of vectors (B, p, E).

        The prefix' last position predicts the first target. target, mask: (B, n).
        """
        if isinstance(prefix, MemoryPrefix):
            real = torch.cat([mask.new_ones(prefix.embeds.shape[:2]), mask[:, :-1]], 1)
            whole, n = prefix.followed_by(embed(self.lm, target[:, :-1])), target.shape[1]
            return self.memory.read(whole, real, n).logits[:, -n:]
        embeds = torch.cat([prefix, embed(self.lm, target[:, :-1]).to(prefix.dtype)], 1)
        real = torch.cat([mask.new_ones(prefix.shape[:2]), mask[:, :-1]], 1)
        return logits_of(self.lm, embeds, real, target.shape[1])

    def read_context(self, batch: Batch) -> Tensor:
        """Return the logits (B, n, V) of the new tokens after the whole context, by the LM alone.

        At the positions of an overlap, which the context already contains, they are meaningless.
        """
        o = self.settings.seq_overlap
        tokens = torch.cat([batch.context, batch.target[:, o:-1]], 1)
        mask = torch.cat([batch.context_mask, batch.target_mask[:, o:-1]], 1)
        logits = logits_of(self.lm, embed(self.lm, tokens), mask, batch.target.shape[1] - o)
        return nn.functional.pad(logits, (0, 0, o, 0))

    def write(self, prefix: Prefix, n: int, **options: Any) -> Tensor:
        """Return at most n tokens (B, n) that the model generates after a prefix.

        options: those of transformers' `generate`; without any, generation is greedy. Raises
        TerseError for options with memory: cache, which writes greedily.
        """
        if not isinstance(prefix, MemoryPrefix):
            return written_after(self.lm, prefix, n, **options)
        if options:
            raise TerseError(f"memory: cache writes greedily, without {sorted(options)[0]}")
        return self.memory.generate(prefix, n)

    def forward(self, **tensors: Tensor) -> Sums:
        """Return the summed losses of a batch (the fields of `Batch`) separately, in nats.

        While it warms up (`warms_up`) these are `rmb`, of the reproduction, and `static`.
        """
        s, batch, full = self.settings, Batch(**tensors), None
        copies_only = self.warms_up
        if not copies_only or self.static is not None:  # otherwise nothing reads the target
            if s.gen_targs:
                batch = self.rewritten(batch)
            if s.soft_targets or (s.kl_scale and not copies_only):
                with torch.no_grad():
                    full = self.read_context(batch)
        Z = self.compress(batch.context, batch.context_mask)
        sums: Sums = {} if copies_only else self._main_losses(Z, batch, full)
        if copies_only or (s.rmb_task and not s.rmb_only):
            logits = self.read(self.prefix(Z, "remember"), *left_aligned(batch))
            sums["rmb"] = cross_entropy(logits, *left_aligned(batch))
        if self.static is not None:
            with held(self.lm):
                logits = self.read(self.static_prefix(len(Z)), batch.target, batch.target_mask)
            sums["static"] = self._target_loss(logits, batch, full)
        if s.csl_task and not copies_only:
            sums["csl"] = self._plain_loss(batch)
        return sums

    def _main_losses(self, Z: Tensor, batch: Batch, full: Tensor | None) -> Sums:
        """Return the main loss of reading Z, and the divergence where it is trained on."""
        s = self.settings
        logits = self.read(self.prefix(Z, self.cue), batch.target, batch.target_mask)
        sums: Sums = {s.main_loss: self._target_loss(logits, batch, full)}
        if full is not None and s.kl_scale:
            sums["kl"] = divergence(full, logits, batch.is_new)
        return sums

    def rewritten(self, batch: Batch) -> Batch:
        """Return the batch with new tokens that the LM itself generates after the whole context."""
        o, n = self.settings.seq_overlap, batch.target.shape[1] - self.settings.seq_overlap
        written = written_after(
            self.lm, embed(self.lm, batch.context), n, mask=batch.context_mask, min_new_tokens=n
        )
        return replace(batch, target=torch.cat([batch.target[:, :o], written], 1))

    def _target_loss(self, logits: Tensor, batch: Batch, full: Tensor | None) -> Tensor:
        if self.settings.soft_targets and full is not None:
            return soft_cross_entropy(logits, full, batch.is_new)
        return cross_entropy(logits, batch.target, batch.target_mask)

    def _plain_loss(self, batch: Batch) -> Tensor:
        o = self.settings.seq_overlap
        tokens = torch.cat([batch.context, batch.target[:, o:]], 1)
        mask = torch.cat([batch.context_mask, batch.target_mask[:, o:]], 1)
        n = tokens.shape[1] - 1
        logits = logits_of(self.lm, embed(self.lm, tokens[:, :-1]), mask[:, :-1], n)
        return cross_entropy(logits, tokens[:, 1:], mask[:, 1:] * mask[:, :-1])

    def static_prefix(self, B: int) -> Tensor:
        """Return the control's prompt for B contexts, (B, spans x c + 1, E)."""
        if self.static is None:
            raise TerseError("this compressor has no static prompt: set static_control: true")
        return self.static.expand(B, -1, -1)

    def trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the trained parameters by name."""
        return ((name, p) for name, p in self.named_parameters() if p.requires_grad)

    def train(self, mode: bool = True) -> "Compressor":
        """Switch trained parts to training mode; the frozen model stays in eval mode."""
        super().train(mode)
        self.lm.eval()
        return self

    def state_dict(self, *args: Any, prefix: str = "", **options: Any) -> dict[str, Any]:  # type: ignore[override]
        """Return the trained tensors by name, without the base's frozen ones."""
        whole = super().state_dict(*args, prefix=prefix, **options)
        return {prefix + name: whole[prefix + name] for name, _ in self.trained()}

    def load_state_dict(self, state_dict: Mapping[str, Any], *_: Any, **__: Any) -> Any:
        """Load the trained tensors; raises TerseError if any other is given."""
        wanted = {name for name, _ in self.trained()}
        if wrong := wanted ^ set(state_dict):
            raise TerseError(f"these weights belong to another compressor: {sorted(wrong)[0]}")
        result = super().load_state_dict(state_dict, strict=False)
        result.missing_keys.clear()  # the frozen ones come from the base
        return result


def left_aligned(batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the contexts and masks (B, k), real tokens at the start, as targets to reproduce."""
    order = batch.context_mask.argsort(dim=1, descending=True, stable=True)
    return batch.context.gather(1, order), batch.context_mask.gather(1, order)


def followed_by(prefix: Prefix, embeds: Tensor) -> Prefix:
    """Return a prefix and embeddings (B, q, E) after it."""
    if isinstance(prefix, MemoryPrefix):
        return prefix.followed_by(embeds)
    return torch.cat([prefix, embeds.to(prefix.dtype)], 1)


@contextmanager
def held(lm: nn.Module) -> Iterator[None]:
    """Let no gradient into a model inside the context: a control must not train the model."""
    trained = [parameter for parameter in lm.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def with_rows(embeds: Tensor, rows: Tensor) -> Tensor:
    """Return embeddings (B, T, E) followed by the same rows (r, E), in the rows' dtype."""
    return torch.cat([embeds.to(rows.dtype), rows.expand(len(embeds), -1, -1)], 1)


def rows_like(table: Tensor, n: int) -> Tensor:
    """Return n random rows (n, E) with the mean and spread of a table (V, E), float32 on CPU."""
    table = table.detach().float().cpu()
    return table.mean(0) + table.std(0) * torch.randn(n, table.shape[1])


def _embeddings(lm: PreTrainedModel) -> Tensor:
    return cast(nn.Embedding, lm.get_input_embeddings()).weight


def _head(lm: PreTrainedModel) -> Tensor:
    return cast(nn.Linear, lm.get_output_embeddings()).weight
