"""Chains of both kinds: solved arithmetic problems, and windows of whole steps from a text."""

import json
import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from terse.corpora.arithmetic.characters import EOS, SEPARATOR, encode
from terse.corpora.arithmetic.expressions import Terms
from terse.corpora.arithmetic.problems import Environment, Splits, make_splits
from terse.corpora.arithmetic.solution import solve
from terse.corpora.steps import STEP_ENDS
from terse.corpora.token_store import TokenStore
from terse.errors import TerseError
from terse.methods.blotching.blotches import Chain
from terse.methods.blotching.settings import BlotchingSettings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Arithmetic:
    """The problems of a run and their chains; a function of its settings."""

    settings: BlotchingSettings

    @cached_property
    def problems(self) -> Splits:
        s = self.settings
        environment = Environment(
            max_num=s.max_num, max_ents=s.max_ents, p_mult=s.p_mult, max_mult_num=s.max_mult_num,
            p_ent=s.p_ent, space_mults=s.space_mults, zipf_order=s.zipf_order,
        )  # fmt: skip
        return make_splits(
            environment, seed=s.seed, n_train=s.n_problems, n_validation=s.n_val_problems,
            ood_max_num=s.ood_max_num or 2 * s.largest_number + 1,
        )  # fmt: skip

    @cached_property
    def train(self) -> list[Chain]:
        return self._chains(self.problems.train)

    @cached_property
    def validation(self) -> list[Chain]:
        return self._chains(self.problems.validation)

    @cached_property
    def ood(self) -> list[Chain]:
        return self._chains(self.problems.ood)

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest chain, or seq_len, which no chain may exceed."""
        found = max(len(c.tokens) for c in (*self.train, *self.validation, *self.ood))
        limit = self.settings.seq_len
        if limit is not None and found > limit:
            raise TerseError(
                f"the longest chain has {found} tokens, seq_len allows {limit}: raise seq_len, or "
                "lower max_num, max_ents or max_mult_num"
            )
        return limit or found

    def _chains(self, problems: list[Terms]) -> list[Chain]:
        known: dict[Terms, Chain] = {}
        for problem in problems:
            if problem not in known:
                known[problem] = chain_of(problem)
        return [known[problem] for problem in problems]


def chain_of(problem: Terms) -> Chain:
    """Return the chain of an arithmetic problem, with EOS; a token is an ASCII character."""
    tokens = np.append(encode("=".join(solve(problem))), EOS)
    ends = np.cumsum(tokens == SEPARATOR)
    return Chain(tokens, np.concatenate([[0], ends[:-1]]), n_bytes=len(tokens) - 1)


def text_chains(path: Path, split: str, seq_len: int, eos_id: int) -> list[Chain]:
    """Return windows of whole pieces of a split's documents, at most seq_len tokens each with EOS.

    The first piece is the problem, the last the answer, the others are steps. Pieces that fit into
    no window of two are left out and counted in the log. Raises TerseError if no window is left.
    """
    store = TokenStore(path, split)
    chains: list[Chain] = []
    n_tokens = n_left_out = 0
    for document in range(len(store)):
        pieces = _pieces(store, document, path)
        n_tokens += sum(p.n_tokens for p in pieces)
        windows = _windows(pieces, seq_len - 1)
        n_left_out += sum(p.n_tokens for p in pieces)
        n_left_out -= sum(p.n_tokens for window in windows for p in window)
        chains += [_chain(window, eos_id) for window in windows]
    if not chains:
        raise TerseError(
            f"the {split} split of {path} has no two neighbouring steps within {seq_len} tokens; "
            "raise seq_len, or choose another separator"
        )
    logger.info(
        "%d windows of the %s split; %d of %d tokens are in steps too long for seq_len, or alone",
        len(chains), split, n_left_out, n_tokens,
    )  # fmt: skip
    return chains


@dataclass(frozen=True)
class _Piece:
    """Tokens (n,) of one step, and the number of their bytes."""

    tokens: np.ndarray
    n_bytes: int

    @property
    def n_tokens(self) -> int:
        return len(self.tokens)


def _pieces(store: TokenStore, document: int, path: Path) -> list[_Piece]:
    """Return the pieces of a document; a token across a boundary belongs to the next piece."""
    metadata = json.loads(store.metadata_of(document))
    if STEP_ENDS not in metadata:
        raise TerseError(f"the corpus of {path} has no steps: give it a separator")
    start, stop = store.offsets[document], store.offsets[document + 1]
    ends = store.byte_ends[start:stop]
    borders = np.searchsorted(ends, metadata[STEP_ENDS][:-1], side="right")
    tokens = store.tokens[start:stop].astype(np.int64)
    sizes = np.diff(ends.astype(np.int64), prepend=0)  # bytes of each token
    parts = zip(np.split(tokens, borders), np.split(sizes, borders), strict=True)
    return [_Piece(part, int(size.sum())) for part, size in parts if len(part)]


def _windows(pieces: list[_Piece], room: int) -> list[list[_Piece]]:
    """Return maximal runs of at least two neighbouring pieces that fit."""
    windows: list[list[_Piece]] = []
    current: list[_Piece] = []
    for piece in pieces:
        if sum(p.n_tokens for p in current) + piece.n_tokens > room:
            windows.append(current)
            current = []
        if piece.n_tokens <= room:
            current.append(piece)
    return [window for window in [*windows, current] if len(window) > 1]


def _chain(pieces: list[_Piece], eos_id: int) -> Chain:
    steps = np.repeat(np.arange(len(pieces)), [piece.n_tokens for piece in pieces])
    tokens = np.concatenate([piece.tokens for piece in pieces])
    n_bytes = sum(piece.n_bytes for piece in pieces)
    return Chain(np.append(tokens, eos_id), np.append(steps, steps[-1]), n_bytes)
