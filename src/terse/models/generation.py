"""What generate() does without a model's own settings: take the most likely token."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from transformers import GenerationConfig, PreTrainedModel


def plain_generation(lm: PreTrainedModel) -> GenerationConfig:
    """Return a generation config with a model's special tokens and nothing else.

    The config that a model ships with may penalise, forbid or force tokens, or stop at texts:
    generate() then does not decode greedily, even if asked to.
    """
    shipped: Any = lm.generation_config
    special = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
    known = {name: getattr(shipped, name, None) for name in special}
    return GenerationConfig(**{name: value for name, value in known.items() if value is not None})


@contextmanager
def plainly(lm: PreTrainedModel) -> Iterator[None]:
    """Let a model generate without its own generation config, within a `with` block."""
    holder = cast(Any, lm)
    shipped = holder.generation_config
    holder.generation_config = plain_generation(lm)
    try:
        yield
    finally:
        holder.generation_config = shipped
