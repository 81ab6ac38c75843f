"""Causal LMs of six architectures, tiny, built from their config classes, far from uniform."""

from typing import Any

import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTJConfig,
    GPTJForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
)

VOCAB, WIDTH, BLOCKS = 61, 16, 3
_IDS: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
BUILD: dict[str, Any] = {
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCAB, n_embd=WIDTH, n_layer=BLOCKS, n_head=2, n_positions=128, **_IDS
        )
    ),
    "gptj": lambda: GPTJForCausalLM(
        GPTJConfig(
            vocab_size=VOCAB, n_embd=WIDTH, n_layer=BLOCKS, n_head=2, rotary_dim=4,
            n_positions=128, **_IDS,
        )
    ),
    "bloom": lambda: BloomForCausalLM(
        BloomConfig(vocab_size=VOCAB, hidden_size=WIDTH, n_layer=BLOCKS, n_head=2, **_IDS)
    ),
    "llama": lambda: LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB, hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=BLOCKS,
            num_attention_heads=2, max_position_embeddings=128, **_IDS,
        )
    ),
    "gpt_neox": lambda: GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=VOCAB, hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=BLOCKS,
            num_attention_heads=2, max_position_embeddings=128, **_IDS,
        )
    ),
    "opt": lambda: OPTForCausalLM(
        OPTConfig(
            vocab_size=VOCAB, hidden_size=WIDTH, word_embed_proj_dim=WIDTH, ffn_dim=32,
            num_hidden_layers=BLOCKS, num_attention_heads=2, max_position_embeddings=128, **_IDS,
        )
    ),
}  # fmt: skip


def tiny_lm(architecture: str, seed: int = 0) -> PreTrainedModel:
    """Return a random model in eval mode whose matrices are large enough to tell tokens apart."""
    torch.manual_seed(seed)
    lm = BUILD[architecture]()
    with torch.no_grad():
        for parameter in lm.parameters():
            if parameter.ndim == 2:
                parameter.mul_(6.0)
    return lm.eval()


def random_tokens(*shape: int, seed: int = 0) -> torch.Tensor:
    """Return tokens that are not special."""
    return torch.randint(3, VOCAB, shape, generator=torch.Generator().manual_seed(seed))
