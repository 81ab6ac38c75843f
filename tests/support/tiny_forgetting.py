"""Rows, models and the method `forgetting`, tiny."""

from typing import Any

import torch
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from terse.config.methods import settings_of
from terse.methods.forgetting.method import Forgetting
from terse.methods.forgetting.packing import Rows
from terse.training.method import Inputs
from tiny_lms import BLOCKS, VOCAB, WIDTH, random_tokens, tiny_lm

ARCHITECTURES = ("gpt2", "llama", "gpt_neox", "qwen2")
SETTINGS: dict[str, Any] = {
    "method": "forgetting", "corpus": "c", "base": "tiny-base", "max_steps": 6, "batch_size": 4,
    "context_len": 20, "block_len": 8, "mask": "mlp", "hidden_dim": 16, "forget_p": 0.5,
    "n_rollouts": 2, "exploration_epochs": [0.5, 0.0], "checkpoint_steps": [0], "log_interval": 2,
    "eval_interval": 3, "max_val_loops": 2, "eval_windows": 40, "n_samples": 2, "lr": 1e-3,
    "eval_rates": [0.25, 0.5],
}  # fmt: skip


def language_model(architecture: str, attention: str = "sdpa") -> PreTrainedModel:
    """Return a random model in eval mode, one of `ARCHITECTURES`."""
    if architecture != "qwen2":
        lm = tiny_lm(architecture)
    else:
        torch.manual_seed(0)
        config = Qwen2Config(
            vocab_size=VOCAB, hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=BLOCKS,
            num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=128,
        )  # fmt: skip
        lm = Qwen2ForCausalLM(config).eval()
    lm.set_attn_implementation(attention)
    return lm.requires_grad_(False)


def text_rows(lengths: tuple[int, ...] = (16, 13, 16), block: int = 5, seed: int = 0) -> Rows:
    """Return rows of random tokens, right-padded, whose last `block` tokens are targets."""
    T = max(lengths)
    place = torch.arange(T)[None]
    ends = torch.tensor(lengths)[:, None]
    real = place < ends
    ids = random_tokens(len(lengths), T, seed=seed).masked_fill(~real, 0)
    return Rows(ids, real, real & (place >= ends - block))


def random_keep(rows: Rows, seed: int = 0, share: float = 0.5) -> torch.Tensor:
    """Return random decisions (B, T) that keep the first token."""
    generator = torch.Generator().manual_seed(seed)
    keep = torch.rand(rows.input_ids.shape, generator=generator) < share
    keep[:, 0] = True
    return keep


def forgetting(inputs: Inputs, **changes: Any) -> Forgetting:
    """Return the method with some settings changed."""
    return Forgetting(settings_of(SETTINGS | changes), inputs)  # type: ignore[arg-type]
