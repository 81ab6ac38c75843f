"""Bytes to a few codes and back, level by level, with a language model on the last codes.

Related: BLT (https://arxiv.org/abs/2412.09871), H-Net (https://arxiv.org/abs/2507.07955).
"""

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from terse.errors import TerseError
from terse.methods.hierarchical.blocks import initialise
from terse.methods.hierarchical.code_lm import CodeSequenceTransformer, expected_rows
from terse.methods.hierarchical.compressor import ByteSegmentCompressor, Segments, Sequence
from terse.methods.hierarchical.expander import CodeExpander
from terse.methods.hierarchical.settings import BYTES, PAD, HierarchicalSettings
from terse.methods.hierarchical.symbols import framed

if TYPE_CHECKING:  # it imports this module
    from terse.methods.hierarchical.generation import Compressed

Sums = dict[str, Tensor]


class HierarchicalAutoencoder(nn.Module):
    """Compressors and expanders, the lowest level first, and the top LM if there is one.

    Levels taken from a base are frozen: they stay in eval mode.
    """

    def __init__(self, settings: HierarchicalSettings) -> None:
        super().__init__()
        self.settings = s = settings
        compressors, expanders = [], []
        K, G, below = BYTES, 1, None
        for i, level in enumerate(s.compressor_level_configs):
            compressors.append(ByteSegmentCompressor(level, K, G, below, s.n_steps))
            expanders.append(CodeExpander(s, i, K, G))
            K, G, below = level.codebook_size, level.n_digits, level.num_queries * level.dim
        self.compressors, self.expanders = nn.ModuleList(compressors), nn.ModuleList(expanders)
        top, last = s.top_transformer_config, s.compressor_level_configs[-1]
        self.top = None if top is None else CodeSequenceTransformer(top, last)
        self.context = None
        if top is not None and s.expander_memory == "contextual":
            self.context = nn.Linear(top.dim, last.num_queries * last.dim)
        initialise(self)

    @property
    def levels(self) -> list[tuple[ByteSegmentCompressor, CodeExpander]]:
        """The compressor and the expander of each level, the lowest first."""
        pairs = zip(self.compressors, self.expanders, strict=True)
        return [(cast(ByteSegmentCompressor, c), cast(CodeExpander, e)) for c, e in pairs]

    @property
    def code_lm(self) -> CodeSequenceTransformer:
        """The language model on the codes; ValueError in a first stage, which has none."""
        if self.top is None:
            raise ValueError("a first stage has no top LM: train a second one on it")
        return self.top

    @property
    def device(self) -> torch.device:
        """The model's device."""
        return self.levels[0][0].norm.weight.device

    def train(self, mode: bool = True) -> "HierarchicalAutoencoder":
        """Switch to training mode; frozen parts stay in eval mode."""
        super().train(mode)
        for compressor, expander in self.levels[: self.settings.n_frozen]:
            compressor.eval()
            expander.eval()
        return self

    def after_step(self) -> None:
        """Move codebooks and thresholds; called once per optimiser step."""
        for compressor, _ in self.levels[self.settings.n_frozen :]:
            compressor.after_step()

    def generate_bytes(self, prompts: list[bytes], max_new: int) -> list[bytes]:
        """Return the bytes that it writes after each prompt, the likeliest each time, up to EOS.

        At most `max_new` each. ValueError in a first stage, which has no language model.
        """
        from terse.methods.hierarchical.generation import generate_bytes  # it imports this module

        return generate_bytes(self, prompts, max_new)

    def compress(self, texts: list[bytes]) -> "Compressed":
        """Return the codes of texts."""
        from terse.methods.hierarchical.generation import compress

        return compress(self, texts)

    def decompress(self, codes: "Compressed") -> list[bytes]:
        """Return the likeliest text of each row of codes."""
        from terse.methods.hierarchical.generation import decompress

        return decompress(self, codes)

    def encode(self, ids: Tensor) -> list[Segments]:
        """Return each level's segments of rows of bytes (B, S), padded at the end."""
        found: list[Segments] = []
        for i in range(len(self.levels)):
            found.append(self.levels[i][0](self._sequence(i, ids, found)))
        return found

    def restored(self, ids: Tensor, opens: list[Tensor], codes: list[Tensor]) -> list[Segments]:
        """Return the result of `encode`, rebuilt from cached boundaries and codes.

        opens: (B, T) of each level. codes: (B, N, G) of each level.
        """
        found: list[Segments] = []
        for i, (compressor, _) in enumerate(self.levels):
            sequence = self._sequence(i, ids, found)
            missing = sequence.digits.shape[1] - opens[i].shape[1]  # padding in all rows
            found.append(compressor.restored(sequence, pad(opens[i], (0, missing)), codes[i]))
        return found

    def _sequence(self, i: int, ids: Tensor, below: list[Segments]) -> Sequence:
        """Return the input of level i: bytes, or the codes of the level below."""
        if i == 0:
            return Sequence(ids[..., None], ids != PAD)
        under, K = below[-1], self.levels[i][0].K
        digits, mask = framed(under.codes, under.n, K)
        longest = self.levels[i][0].level.max_seq_len_encoder
        if longest is not None and digits.shape[1] > longest:
            raise TerseError(
                f"level {i} was given {digits.shape[1]} symbols, but its max_seq_len_encoder is "
                f"{longest}: raise it, or cut longer segments below"
            )
        return Sequence(digits, mask, under.rows.flatten(2))

    def memory(self, segments: Segments, states: Tensor | None) -> Tensor:
        """Return the last level's rows (B, N, L, W) as its expander reads them.

        states: (B, N + 1, D) of the top LM, which a contextual memory needs.
        """
        return self.with_context(segments.rows, None if states is None else states[:, :-1])

    def with_context(self, rows: Tensor, states: Tensor | None) -> Tensor:
        """Return rows (..., L, W) with the top LM's states (..., D) before them added."""
        if self.context is None:
            return rows
        if states is None:
            raise ValueError("a contextual memory needs the top LM's states")
        return rows + self.context(states).unflatten(-1, rows.shape[-2:])

    def reconstruction_nats(self, i: int, segments: Segments, rows: Tensor) -> Tensor:
        """Return the cost of each symbol of level i but the first, given its codes' rows.

        rows: (B, N, L, W). Returns (B, T - 1).
        """
        expander, digits = self.levels[i][1], segments.sequence.digits
        states = expander(digits, segments.segment, segments.offset, rows)
        return expander.head.nats(states, digits[:, 1:])

    def predicted_nats(self, levels: list[Segments], states: Tensor) -> Tensor:
        """Return the cost (B, S - 1) of each byte but the first, decoded from predicted rows.

        states: (B, N + 1, D) of the top LM. A segment's row is the one expected before its first
        byte is read; earlier segments' rows are the true ones.
        """
        hidden = self.predicted_states(levels, states)
        return self.levels[0][1].head.nats(hidden, levels[0].sequence.digits[:, 1:])

    def predicted_states(self, levels: list[Segments], states: Tensor) -> Tensor:
        """Return the lowest expander's states (B, S - 1, D) for predicted rows."""
        before = states[:, :-1]
        compressors = [compressor for compressor, _ in self.levels]
        own = self.with_context(self.code_lm.predicted(before, compressors[-1].quantizer), before)
        past = self.memory(levels[-1], states)
        hidden = own
        for i in reversed(range(len(levels))):
            at, expander = levels[i], self.levels[i][1]
            hidden = expander(at.sequence.digits, at.segment, at.offset, own, past)
            if i:
                under = compressors[i - 1]
                N, L = levels[i - 1].rows.shape[1], under.level.num_queries
                own = expected_rows(expander.head, hidden[:, :N], under.quantizer, L)
                past = levels[i - 1].rows
        return hidden

    def forward(self, ids: Tensor, **cached: Tensor) -> Sums:
        """Return the summed losses of rows of bytes (B, S) separately, in nats.

        Also returns the number of `segments` and the perplexity of the codes. cached: `opens0`,
        `codes0`, ... for a second stage, which trains only the top LM.
        """
        if cached:
            n = len(self.levels)
            opens, codes = ([cached[f"{key}{i}"] for i in range(n)] for key in ("opens", "codes"))
            with torch.no_grad():
                levels = self.restored(ids, opens, codes)
            return self._top_losses(levels, self.code_lm(levels[-1].rows))
        levels = self.encode(ids)
        states = None if self.top is None else self.top(levels[-1].rows)
        sums: Sums = {}
        for i, at in enumerate(levels):
            if i < self.settings.n_frozen:
                continue
            rows = self.memory(at, states) if i == len(levels) - 1 else at.rows
            sums[f"reconstruction{i}"] = self.reconstruction_nats(i, at, rows).sum()
            sums[f"vq{i}"] = at.made.loss
            sums[f"lm{i}"] = self.levels[i][0].next_symbol_nats(at).sum()
            sums[f"segments{i}"] = at.n.sum().float()
            usage = self.levels[i][0].usage(at)
            sums |= {f"{name}{i}": value for name, value in usage.items()}
        return sums if states is None else sums | self._top_losses(levels, states)

    def _top_losses(self, levels: list[Segments], states: Tensor) -> Sums:
        s, last, top = self.settings, levels[-1], self.code_lm
        sums: Sums = {}
        if top.head is not None:
            sums["top_ce"] = top.nats(states, last.codes, last.n).sum()
        if top.predict is not None:
            sums["top_mse"] = top.squared_error(states, last.rows, last.real).sum()
        if s.predicted_loss_weight:
            sums["predicted"] = self.predicted_nats(levels, states).sum()
        return sums


def own_model(model: nn.Module) -> HierarchicalAutoencoder:
    """Return this method's model, unwrapped from what trains it on several devices."""
    found = cast(nn.Module, getattr(model, "module", model))
    if not isinstance(found, HierarchicalAutoencoder):
        raise TerseError(f"this method's models are HierarchicalAutoencoder, not {type(found)}")
    return found
