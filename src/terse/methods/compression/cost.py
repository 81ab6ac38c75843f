"""The cost of a context: positions, FLOPs, key-value cache bytes, time to the first token."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from terse.evaluation.cost import cache_size, interleaved
from terse.evaluation.flops import PassFlops, counted, lm_flops
from terse.evaluation.measures import Measure
from terse.evaluation.scores import Floats, floats
from terse.methods.compression.arms import ScoredBatch
from terse.methods.compression.cache_memory import MemoryPrefix
from terse.methods.compression.frozen_lm import (
    embed,
    expected_embedding,
    hidden_state,
    keeping,
    logits_of,
)
from terse.methods.compression.lora import lora_enabled
from terse.methods.compression.model import Compressor, Prefix
from terse.methods.compression.rows import ListedWindows


@dataclass(frozen=True)
class ArmCosts:
    """The cost of a window in each arm.

    reading: a pass of the language model. making: a pass up to the hidden state from which the
    vectors are read, scored at the positions that become vectors. pooling: the same in the plain
    model, without trained rows or LoRA; None without that arm. vector: FLOPs of projecting one
    vector.
    """

    model: Compressor
    reading: PassFlops
    making: "PassFlops | MemoryFlops"
    pooling: PassFlops | None
    vector: float

    @classmethod
    def of(cls, model: Compressor) -> "ArmCosts":
        """Return the costs of a model, counted in short passes."""
        reading, lora = lm_flops(model.lm), model.settings.lora_rank > 0
        if model.cached:
            making = MemoryFlops.of(model, replace(reading, head=0.0))
            return cls(model, reading, making, pooling=None, vector=0.0)
        states = torch.zeros(1, 1, _state_width(model), device=model.vectors.device)
        return cls(
            model,
            reading,
            making=_as_far_as_vectors(model, lora=lora, outputs=True),
            pooling=_as_far_as_vectors(model, lora=False, outputs=False),
            vector=float(counted(lambda: model.project(states))),
        )

    def of_arm(self, arm: str, at: ScoredBatch) -> tuple[Floats, Floats]:
        """Return the positions (B,) that an arm computes for windows, and their FLOPs (B,).

        Each vector and the cue are one position; padding is none.
        """
        n = flops = np.zeros(len(at.batch.target))
        if arm in ("compressed", "shuffled"):
            n, flops = self.of_making((at.batch if arm == "compressed" else at.others).context_mask)
        elif arm == "mean_pool":
            n, flops = self._of_pooling(at.batch.context_mask)
        read = self._read(arm, at)
        if self.model.cached and arm in ("compressed", "shuffled"):
            scored, held = at.batch.is_new.sum(1), self.model.n_vectors
            return n + read - held + 1, flops + self.of_memory(read - held, scored, held)
        return n + read, flops + self.reading.total(read, at.batch.is_new.sum(1))

    def of_memory(self, n: Any, n_scored: Any, held: Any) -> Any:
        """Return the FLOPs of passes over n positions after the start token and `held` others."""
        return self.reading.total(n, n_scored, past=held + 1) + self.reading.total(1)

    def _read(self, arm: str, at: ScoredBatch) -> Floats:
        """Return the positions (B,) of the pass that gives the targets' likelihoods."""
        batch, model = at.batch, self.model
        o, n_target = model.settings.seq_overlap, floats(batch.target_mask.sum(1))
        if arm == "high":
            return floats(batch.context_mask.sum(1)) + n_target - o - 1
        if arm == "tail":
            stop = batch.context.shape[1] - o
            kept = batch.context_mask[:, max(0, stop - model.n_vectors - 1) : stop]
            return floats(kept.sum(1)) + n_target - 1
        return n_target - 1 + (1 if arm == "low" else model.n_vectors + 1)

    def of_prefix(self, prefix: Prefix) -> Any:
        """Return the FLOPs of reading a prefix (1, T, E) up to the first token after it."""
        if isinstance(prefix, MemoryPrefix):
            return self.of_memory(prefix.embeds.shape[1], 1, prefix.Z.shape[1])
        return self.reading.total(prefix.shape[1], 1)

    def of_making(self, mask: Tensor) -> tuple[Floats, Floats]:
        """Return positions and FLOPs (B,) of making contexts' vectors, mask (B, spans x k)."""
        s = self.model.settings
        spans = self._spans(mask) + s.n_cmps + s.sep_cmpr + self.model.cached  # (B, spans)
        flops = self.making.total(spans, s.n_cmps) + s.n_cmps * self.vector
        return (self.model.layer != 0) * spans.sum(1), flops.sum(1)

    def _of_pooling(self, mask: Tensor) -> tuple[Floats, Floats]:
        """Return the same for means over parts, which are products with matrices (c, k)."""
        assert self.pooling is not None
        c, spans = self.model.settings.n_cmps, self._spans(mask)
        means = 2 * c * spans * _state_width(self.model)
        flops = self.pooling.total(spans) + means + c * self.vector
        return bool(self.model.layer) * spans.sum(1), flops.sum(1)

    def _spans(self, mask: Tensor) -> Floats:
        """Return the real tokens of each span of contexts, (B, spans)."""
        return floats(mask.reshape(len(mask), self.model.settings.n_spans, -1).sum(2))


@dataclass(frozen=True)
class MemoryFlops:
    """The cost of writing a memory: a plain pass over the context, then one over the rows.

    lora: FLOPs of the LoRA at one row. n_rows: those after a context, CMP and SEP.
    """

    plain: PassFlops
    lora: float
    n_rows: int

    @classmethod
    def of(cls, model: Compressor, plain: PassFlops) -> "MemoryFlops":
        """Return the cost for a model; the LoRA's is counted in a pass over one token."""
        one = torch.zeros(1, 1, dtype=torch.long, device=model.vectors.device)

        def run(lora: bool) -> int:
            with lora_enabled(model.lm, lora):
                return counted(lambda: model.lm.base_model(input_ids=one, use_cache=False))

        s = model.settings
        extra = run(True) - run(False) if s.lora_rank else 0
        return cls(plain, float(extra), s.n_cmps + s.sep_cmpr)

    def total(self, n: Any, _: Any = 0) -> Any:
        """Return the FLOPs of writing after n positions in all, the rows included."""
        before, r = floats(n) - self.n_rows, self.n_rows
        return self.plain.total(before) + self.plain.total(r, past=before) + r * self.lora


def _as_far_as_vectors(model: Compressor, *, lora: bool, outputs: bool) -> PassFlops:
    """Return the cost of a pass up to the states that become vectors.

    outputs: whether to include expected output embeddings where the settings use them; means have
    none.
    """
    lm = model.lm

    def run(n: int, m: int) -> None:
        embeds = embed(lm, torch.zeros(1, n, dtype=torch.long, device=model.vectors.device))
        real = torch.ones(embeds.shape[:2], dtype=torch.long, device=embeds.device)
        with lora_enabled(lm, lora):
            if model.layer is not None:
                hidden_state(lm, embeds, real, model.layer)
            elif outputs:
                expected_embedding(lm, logits_of(lm, embeds, real, m))

    return PassFlops.measured(run)


def _state_width(model: Compressor) -> int:
    """Return the width of the vectors before projection: of hidden states, or of embeddings."""
    if model.layer is None:
        return int(cast(nn.Embedding, model.lm.get_input_embeddings()).weight.shape[1])
    return int(model.lm.config.get_text_config().hidden_size)


def prefixes(model: Compressor, windows: ListedWindows) -> dict[str, Prefix]:
    """Return what precedes new text, (1, T, E), by arm: `high` and `compressed`."""
    context = context_of(windows).to(model.vectors.device)
    Z = model.compress(context, torch.ones_like(context))
    return {"high": embed(model.lm, context), "compressed": model.prefix(Z, model.cue)}


def context_of(windows: ListedWindows) -> Tensor:
    """Return the first window's context, only its real tokens, (1, T)."""
    row = windows[0]
    return row["context"][row["context_mask"].bool()][None]


def context_measures(model: Compressor, windows: ListedWindows) -> list[Measure]:
    """Return the positions before the first new token, and the bytes of the cache there."""
    measures = []
    with torch.inference_mode():
        for arm, embeds in prefixes(model, windows).items():
            positions, size = float(embeds.shape[1]), float(cache_bytes(model, embeds))
            measures.append(Measure(arm, "positions", positions, n=1))
            measures.append(Measure(arm, "key_value_bytes", size, n=1))
    return measures


def cost_table(model: Compressor, windows: ListedWindows) -> pd.DataFrame:
    """Return the cost of a context, a row for each way, with ratios to `high`.

    time_to_first_token_s is the median of interleaved rounds on this machine: from tokens, from
    existing vectors, and from vectors with the pass that makes them (`compressing`). forward_flops
    counts the same passes.
    """
    costs = ArmCosts.of(model)
    with torch.inference_mode():
        before = prefixes(model, windows)
        context = context_of(windows).to(model.vectors.device)

        def compressing() -> Tensor:
            made = model.compress(context, torch.ones_like(context))
            return _first_token(model, model.prefix(made, model.cue))

        ways = {arm: _first_token_after(model, embeds) for arm, embeds in before.items()}
        seconds = interleaved({**ways, "compressing": compressing})
        sizes = {arm: cache_bytes(model, embeds) for arm, embeds in before.items()}
    flops = {arm: costs.of_prefix(prefix) for arm, prefix in before.items()}
    _, making = costs.of_making(torch.ones_like(context))
    flops["compressing"] = flops["compressed"] + making.item()
    rows = [
        {
            "way": way,
            "positions": before.get(way, before["compressed"]).shape[1],
            "key_value_bytes": sizes.get(way, sizes["compressed"]),
            "forward_flops": float(flops[way]),
            "time_to_first_token_s": median,
        }
        for way, median in seconds.items()
    ]
    table = pd.DataFrame(rows)
    for column in ("positions", "key_value_bytes", "forward_flops", "time_to_first_token_s"):
        table[f"{column.removesuffix('_s')}_ratio"] = table[column] / table[column].iloc[0]
    return table


def _first_token_after(model: Compressor, prefix: Prefix) -> Callable[[], Tensor]:
    return lambda: _first_token(model, prefix)


def _first_token(model: Compressor, prefix: Prefix) -> Tensor:
    return _prefill(model, prefix).logits[:, -1].argmax(-1)


def _prefill(model: Compressor, prefix: Prefix) -> Any:
    if isinstance(prefix, MemoryPrefix):
        return model.memory.read(prefix)
    return model.lm(inputs_embeds=prefix.to(model.lm.dtype), use_cache=True, **keeping(model.lm, 1))


def cache_bytes(model: Compressor, prefix: Prefix) -> int:
    """Return the bytes of keys and values after a pass over a prefix (1, T, E)."""
    return cache_size(_prefill(model, prefix).past_key_values)
