"""The method's way of reading contexts in a frontier: whole steps left out, by intensity."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from terse.errors import TerseError
from terse.evaluation.flops import lm_flops
from terse.evaluation.frontier.reader import CausalReader, CausalReading, Tokens
from terse.evaluation.frontier.reading import Cost, generator
from terse.evaluation.frontier.windows import Window
from terse.methods.blotching.blotches import Chain
from terse.methods.blotching.losses import token_nats
from terse.methods.blotching.method import Blotching
from terse.methods.blotching.model import Blotcher
from terse.methods.blotching.rows import IGNORED, Layout, Row, collate
from terse.training.method import Method


class Blotched(CausalReading):
    """The context's first step and the target are kept; of the steps between, the rate's share.

    The target is the last step of the chain. Rates whose intensity was not trained are left out.
    """

    def __init__(self, model: Blotcher, layout: Layout, reader: CausalReader) -> None:
        self.model, self.layout, self.reader = model, layout, reader
        self.flops = lm_flops(model.lm)
        s = layout.settings
        self.positions = "dense" if s.excise_tokens and s.pad_pos_skip else "kept"

    def read(self, window: Window, rates: Sequence[float]) -> list[Cost]:
        tokens, s = self.reader.tokens(window), self.layout.settings
        trained = [
            rate for rate in rates
            if s.arm != "intensity" or s.blotch_p_min <= 1 - rate <= s.blotch_p_max
        ]  # fmt: skip
        if not trained:
            raise TerseError(
                "no rate of the study was trained: intensities are from "
                f"{s.blotch_p_min:g} to {s.blotch_p_max:g}"
            )
        chain = self._chain(window, tokens)
        return [self._at(rate, chain, tokens, window) for rate in trained]

    def _chain(self, window: Window, tokens: Tokens) -> Chain:
        """Return the window as a chain; a token across a border belongs to the next step."""
        if window.piece_ends is None:
            raise TerseError("the windows' corpus has no steps: give it a separator_pattern")
        encoded = window.context.encode()
        borders = [len(encoded[:end].decode(errors="replace")) for end in window.piece_ends[:-1]]
        ends = self.reader.token_ends(window.context)
        steps = np.searchsorted(borders, ends, side="left")
        steps = np.unique(steps, return_inverse=True)[1]  # a step can be shorter than a token
        chain = torch.cat([tokens.context, tokens.target]).cpu().numpy()
        last = np.full(tokens.m, steps[-1] + 1)
        if (longest := self.layout.longest - (self.layout.settings.arm == "intensity")) < len(
            chain
        ):
            raise TerseError(
                f"a window has {len(chain)} tokens, but the run's chains have up to {longest}: "
                "lower context_bytes"
            )
        return Chain(chain, np.append(steps, last), window.context_bytes + window.target_bytes)

    def _at(self, rate: float, chain: Chain, tokens: Tokens, window: Window) -> Cost:
        row: Row = self.layout.row(chain, 1 - rate, generator(self.layout.settings.seed, window))
        batch = {key: value.to(self.reader.lm.device) for key, value in collate([row], 0).items()}
        nats = token_nats(self.model, batch, 0)[0]
        scored = np.flatnonzero(row["labels"] != IGNORED)[-tokens.m :]  # the target is not dropped
        prefix = int(self.layout.settings.arm == "intensity")
        seen = np.flatnonzero(row["attention_mask"])[prefix:]
        held = len(seen) - tokens.m
        n = len(row["input_ids"]) - 1  # the last token is not read
        return self.reader.cost(
            rate, float(nats[torch.from_numpy(scored).to(nats.device)].double().sum()), tokens,
            held=held, computed=n, flops=float(self.flops.total(n, tokens.m)),
            dimensions=self.dimensions(torch.from_numpy(seen[None, :held])),
        )  # fmt: skip


def reading(method: Method, model: nn.Module, device: str) -> Blotched:
    """Return the reading of a loaded run."""
    assert isinstance(method, Blotching)
    assert isinstance(model, Blotcher)
    placed = model.to(device)
    return Blotched(placed, method.layout, CausalReader(placed.lm, method.tokenizer))
