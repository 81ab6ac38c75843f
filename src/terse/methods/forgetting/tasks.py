"""Four synthetic texts in which it is known what can be forgotten, and a small model for them.

`filler`: half of the context is uninformative, which its tokens show. `context_filler`: the same
symbols are filler or content, depending on the last marker. `copy`: the block repeats the context,
so nothing can be dropped. `recall`: the block needs a few early tokens among many uninformative
ones.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset
from transformers import LlamaConfig, LlamaForCausalLM

from terse.methods.forgetting.rows import Item, Lengths, item_of

START, CONTENT, FILLER = 0, 1, 2  # the first token, and the markers of `context_filler`
SPECIAL = (START, CONTENT, FILLER)
SYMBOLS = np.arange(8, 40)
DRAWN = SYMBOLS[:16]  # symbols of copies, and of rows with their own distribution
NOISE = np.arange(40, 56)  # equally many, so that a token's frequency says nothing
QUERIES = np.arange(56, 60)
VALUES_OF_A_KEY = 8  # SYMBOLS 8k .. 8k + 7 are the values of key k
VOCAB = 60
CONCENTRATION = 0.2  # of the Dirichlet distribution of a row's symbols
LONGEST_SPAN = 5
WIDTH, BLOCKS, HEADS = 64, 2, 2

Draw = tuple[NDArray[np.int64], NDArray[np.bool_]]


def task_model(lengths: Lengths) -> LlamaForCausalLM:
    """Return a small model with random weights."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB, hidden_size=WIDTH, intermediate_size=2 * WIDTH,
            num_hidden_layers=BLOCKS, num_attention_heads=HEADS,
            max_position_embeddings=lengths.total, bos_token_id=START, eos_token_id=START,
            pad_token_id=START, tie_word_embeddings=False,
        )
    )  # fmt: skip


class TaskRows(Dataset[Item]):
    """Rows of a task; row i is a function of (seed, i).

    An item has the fields of `Rows`, "document", "target_bytes" (a token is a byte), and
    "is_filler" (C + S,): tokens that carry no information about any target.
    """

    def __init__(self, task: str, lengths: Lengths, *, seed: int, n_rows: int) -> None:
        self.task, self.lengths, self.seed, self.n_rows = task, lengths, seed, n_rows

    def __len__(self) -> int:
        return self.n_rows

    def __getitem__(self, index: int) -> Item:
        if not 0 <= index < self.n_rows:
            raise IndexError(index)
        rng = np.random.default_rng([self.seed, index])
        tokens, is_filler = TASKS[self.task](rng, self.lengths)
        fields: dict[str, Any] = item_of(tokens, self.lengths.context, self.lengths, START)
        fields["is_filler"] = torch.from_numpy(is_filler) & ~fields["is_target"]
        return {**fields, "document": index, "target_bytes": self.lengths.block}


def filler(rng: np.random.Generator, lengths: Lengths) -> Draw:
    """Draw symbols from the row's own distribution, and as much noise between them."""
    n = lengths.total - 1
    is_filler = np.concatenate([_half(rng, lengths.context - 1), _half(rng, lengths.block)])
    symbols = rng.choice(DRAWN, n, p=_distribution(rng))
    tokens = np.where(is_filler, rng.choice(NOISE, n), symbols)
    return _started(tokens, is_filler)


def context_filler(rng: np.random.Generator, lengths: Lengths) -> Draw:
    """Draw spans after markers: from the row's own distribution, or uniformly from all symbols."""
    shares = _distribution(rng)
    tokens, is_filler = [], []
    noisy = bool(rng.integers(2))
    while len(tokens) < lengths.total - 1:
        n = int(rng.integers(2, LONGEST_SPAN + 1))
        drawn = rng.choice(DRAWN, n) if noisy else rng.choice(DRAWN, n, p=shares)
        tokens += [FILLER if noisy else CONTENT, *drawn]
        is_filler += [False, *([noisy] * n)]
        noisy = not noisy
    n = lengths.total - 1
    return _started(np.array(tokens[:n]), np.array(is_filler[:n]))


def copy(rng: np.random.Generator, lengths: Lengths) -> Draw:
    """Draw a context of symbols that begins with the block."""
    context = rng.choice(DRAWN, lengths.context - 1)
    block = np.resize(context, lengths.block)
    tokens = np.concatenate([context, block])
    return _started(tokens, np.zeros(len(tokens), dtype=bool))


def recall(rng: np.random.Generator, lengths: Lengths) -> Draw:
    """Draw two values in the first half of a noise context; the block queries them by key."""
    n = lengths.context - 1
    context = rng.choice(NOISE, n)
    keys = rng.choice(len(QUERIES), 2, replace=False)
    values = SYMBOLS[VALUES_OF_A_KEY * keys + rng.integers(VALUES_OF_A_KEY, size=2)]
    places = rng.choice(n // 2, 2, replace=False)
    context[places] = values
    asked = rng.integers(2, size=lengths.block)  # one per question, and some spare ones
    block = np.stack([QUERIES[keys[asked]], values[asked]], 1).ravel()[: lengths.block]
    is_filler = np.ones(lengths.total - 1, dtype=bool)
    is_filler[places] = False
    return _started(np.concatenate([context, block]), is_filler)


TASKS = {"filler": filler, "context_filler": context_filler, "copy": copy, "recall": recall}


def _half(rng: np.random.Generator, n: int) -> NDArray[np.bool_]:
    return rng.permutation(np.arange(n)) % 2 == 0


def _distribution(rng: np.random.Generator) -> NDArray[np.float64]:
    return rng.dirichlet(np.full(len(DRAWN), CONCENTRATION))


def _started(tokens: NDArray[np.int64], is_filler: NDArray[np.bool_]) -> Draw:
    return np.concatenate([[START], tokens]), np.concatenate([[False], is_filler])


def piece(token: int) -> str:
    """Return a token of the tasks as readable text."""
    names = {START: "^", CONTENT: "<", FILLER: ">"}
    if token in names:
        return names[token]
    for letter, library in (("s", SYMBOLS), ("n", NOISE), ("q", QUERIES)):
        if token in library:
            return f"{letter}{token - library[0]} "
    return "? "
