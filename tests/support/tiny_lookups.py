"""Texts that answer questions about themselves, and a reader made by hand that looks answers up.

A fact is one of four letters that belong to a digit; the rest is filler of other letters. A target
asks for the facts of its context: `0A1F2I3M`.
"""

from functools import cache
from typing import Any

import numpy as np
from transformers import LlamaConfig, LlamaForCausalLM

from terse.evaluation.frontier.reader import CausalReader
from tiny_frontier import byte_tokenizer

N_KEYS, N_VALUES = 4, 4
BOS, FILLER = 256, "ghijklmn"
HEAD, STRONG = 16, 8.0
# The width: digits, what letters belong to, letters, what was looked up, filler, BOS.
DIGIT, KEY, LETTER, FOUND, OTHER, START = 0, 4, 8, 24, 40, 41


def letter(key: int, value: int) -> str:
    """Return the fact that a digit has a value."""
    return chr(65 + N_VALUES * key + value)


def facts(random: np.random.Generator) -> list[str]:
    """Return a letter for each digit."""
    return [letter(key, int(random.integers(N_VALUES))) for key in range(N_KEYS)]


def filler(random: np.random.Generator, n: int) -> str:
    """Return n letters of no importance."""
    return "".join(random.choice(list(FILLER), n))


def asked(values: list[str]) -> str:
    """Return all facts, each after its digit."""
    return "".join(f"{key}{value}" for key, value in enumerate(values))


@cache
def lookup_reader() -> CausalReader:
    """Return a reader that knows a fact after its digit if it holds the fact's letter.

    One head: a digit asks for the letters that belong to it, and finds the start token if there is
    none. The frequencies of the positions that it uses are so low that places do not matter.
    """
    config = LlamaConfig(
        vocab_size=259, hidden_size=48, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=1, head_dim=HEAD, max_position_embeddings=1024, bos_token_id=BOS,
        eos_token_id=257, rope_parameters={"rope_type": "default", "rope_theta": 1e12},
    )  # fmt: skip
    lm = LlamaForCausalLM(config).requires_grad_(False)
    for name, parameter in lm.named_parameters():
        parameter.fill_(1.0 if "norm" in name else 0.0)
    embedding, head = lm.model.embed_tokens.weight, lm.lm_head.weight
    attention: Any = lm.model.layers[0].self_attn
    embedding[list(FILLER.encode()), OTHER] = 1.0
    embedding[BOS, START] = 1.0
    head[ord("0"), [OTHER, START]] = 3.0  # a target begins after filler or at the start
    for key in range(N_KEYS):
        at = HEAD // 4 + key  # of the slowly turning half
        embedding[ord(f"{key}"), DIGIT + key] = 1.0
        attention.q_proj.weight[at, DIGIT + key] = STRONG
        attention.k_proj.weight[at, KEY + key] = STRONG
        attention.k_proj.weight[at, START] = STRONG / 4
        head[ord(f"{(key + 1) % N_KEYS}"), KEY + key] = 3.0  # above what is looked up
        for value in range(N_VALUES):
            ident, place = ord(letter(key, value)), N_VALUES * key + value
            embedding[ident, [KEY + key, LETTER + place]] = 1.0
            attention.v_proj.weight[place, LETTER + place] = 1.0
            attention.o_proj.weight[FOUND + place, place] = 1.0
            head[ident, [DIGIT + key, FOUND + place]] = 1.0
    lm.lm_head.weight.mul_(2.0)
    return CausalReader(lm.eval(), byte_tokenizer())
