"""Rows to train on: chains with blotches, each a function of the seed and its index."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from terse.methods.blotching.blotches import Chain, bin_of, kept_tokens
from terse.methods.blotching.settings import BlotchingSettings

Row = dict[str, NDArray[np.int64]]
IGNORED = -100
TRAIN, VALIDATION, REQUESTS = range(3)  # streams of random numbers


class Layout:
    """How a chain becomes a row: an intensity token before it, positions, targets.

    vocab_size: of the chain's tokens; intensity tokens come after them. pool: size of the table
    from which `longest` positions are drawn for each row; None: positions are not drawn.
    """

    def __init__(
        self, settings: BlotchingSettings, vocab_size: int, longest: int, pool: int | None
    ) -> None:
        self.settings = settings
        self.vocab_size = vocab_size
        self.longest = longest
        self.pool = pool

    def row(self, chain: Chain, p: float, rng: np.random.Generator) -> Row:
        """Return input_ids, labels, position_ids and attention_mask of a chain, (T',) each.

        A label is the token to predict at a position: the next kept one.
        """
        s = self.settings
        kept = kept_tokens(chain, p, s, rng)
        tokens, steps = chain.tokens, chain.steps
        if s.arm == "intensity":
            prefix = self.vocab_size + bin_of(p, s)
            tokens, steps = np.append(prefix, tokens), np.append(0, steps)
            kept = np.append(True, kept)
        places = np.cumsum(kept) - 1 if s.pad_pos_skip else np.arange(len(tokens))
        labels = np.full(len(tokens), IGNORED)
        last = np.flatnonzero(kept)
        labels[last[:-1]] = tokens[last[1:]]
        if not s.incl_intl_prob:
            labels[last[:-1][steps[last[1:]] == 0]] = IGNORED
        row = {
            "input_ids": tokens,
            "labels": labels,
            "position_ids": self.positions(rng)[np.maximum(places, 0)],
            "attention_mask": kept.astype(np.int64),
        }
        return {key: value[kept] for key, value in row.items()} if s.excise_tokens else row

    def positions(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """Return the positions of a sequence's tokens, (longest,), strictly increasing."""
        if self.pool is None:
            return np.arange(self.longest)
        return np.sort(rng.choice(self.pool, self.longest, replace=False))

    def prompt(self, chain: Chain, p: float | None) -> NDArray[np.int64]:
        """Return the tokens of a chain's problem, after the token of an intensity p if given."""
        tokens = chain.tokens[chain.steps == 0]
        return (
            tokens if p is None else np.append(self.vocab_size + bin_of(p, self.settings), tokens)
        )


class BlotchedRows(Dataset[Row]):
    """`n_rows` rows of chains, shuffled in each epoch and blotched independently.

    Row i belongs to the optimiser step i // rows_per_step, which the curriculum depends on.
    """

    def __init__(
        self, chains: Sequence[Chain], layout: Layout, *, n_rows: int, rows_per_step: int
    ) -> None:
        self.chains, self.layout = chains, layout
        self.n_rows, self.rows_per_step = n_rows, rows_per_step
        self._order: tuple[int, NDArray[np.int64]] = (-1, np.arange(0))

    def __len__(self) -> int:
        return self.n_rows

    def __getitem__(self, index: int) -> Row:
        if not 0 <= index < self.n_rows:
            raise IndexError(index)
        s = self.layout.settings
        epoch, place = divmod(index, len(self.chains))
        if self._order[0] != epoch:
            rng = np.random.default_rng([s.seed, TRAIN, epoch])
            self._order = (epoch, rng.permutation(len(self.chains)))
        rng = np.random.default_rng([s.seed, TRAIN, epoch, place])
        p = row_p(s, rng, index // self.rows_per_step)
        return self.layout.row(self.chains[self._order[1][place]], p, rng)


class HeldOutRows(Dataset[Row]):
    """Held-out chains, blotched as at the end of the training; they do not change."""

    def __init__(self, chains: Sequence[Chain], layout: Layout) -> None:
        self.chains, self.layout = chains, layout

    def __len__(self) -> int:
        return len(self.chains)

    def __getitem__(self, index: int) -> Row:
        s = self.layout.settings
        rng = np.random.default_rng([s.seed, VALIDATION, index])
        return self.layout.row(self.chains[index], row_p(s, rng), rng)


class RequestedRows(HeldOutRows):
    """Held-out chains at one share p of steps left out."""

    def __init__(self, chains: Sequence[Chain], layout: Layout, p: float) -> None:
        super().__init__(chains, layout)
        self.p = p

    def __getitem__(self, index: int) -> Row:
        rng = np.random.default_rng([self.layout.settings.seed, REQUESTS, index])
        return self.layout.row(self.chains[index], self.p, rng)


def row_p(settings: BlotchingSettings, rng: np.random.Generator, step: int | None = None) -> float:
    """Return the share of steps that a row leaves out; the curriculum limits it at first."""
    grown = 1.0
    if step is not None and settings.curriculum_steps:
        grown = min(1.0, step / settings.curriculum_steps)
    ps = settings.trained_ps()
    if settings.arm != "intensity":
        return ps[0] * grown
    return ps[int(rng.integers(1 + round(grown * (len(ps) - 1))))]


def collate(rows: Sequence[Row], pad_id: int) -> dict[str, Tensor]:
    """Return rows as a batch (B, T), padded on the right to the longest."""
    fill = {"input_ids": pad_id, "labels": IGNORED, "position_ids": 0, "attention_mask": 0}
    width = max(len(row["input_ids"]) for row in rows)
    batch = {}
    for key, value in fill.items():
        stacked = np.full((len(rows), width), value, dtype=np.int64)
        for line, row in zip(stacked, rows, strict=True):
            line[: len(row[key])] = row[key]
        batch[key] = torch.from_numpy(stacked)
    return batch
