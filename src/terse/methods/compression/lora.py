"""A LoRA (https://arxiv.org/abs/2106.09685) through peft, active only in the compressing pass."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from torch import nn
from transformers import PreTrainedModel

from terse.errors import TerseError


def add_lora(lm: PreTrainedModel, rank: int) -> None:
    """Add a trainable LoRA to each linear map inside the model's blocks, switched off."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise TerseError("lora_rank needs the package peft: pip install peft") from error
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear")
    inject_adapter_in_model(config, lm)
    for name, parameter in lm.named_parameters():
        parameter.requires_grad_("lora_" in name)
    _switch(lm, on=False)


@contextmanager
def lora_enabled(lm: nn.Module, exists: bool) -> Iterator[None]:
    """Switch the LoRA, if there is one, on inside the context."""
    if exists:
        _switch(lm, on=True)
    try:
        yield
    finally:
        if exists:
            _switch(lm, on=False)


def _switch(lm: nn.Module, *, on: bool) -> None:
    from peft.tuners.tuners_utils import BaseTunerLayer

    for module in lm.modules():
        if isinstance(module, BaseTunerLayer):
            # peft's own switch would also freeze the LoRA's weights.
            cast(Any, module)._disable_adapters = not on
