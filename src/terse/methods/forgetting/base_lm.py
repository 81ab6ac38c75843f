"""Operations on the base: freezing, adding a LoRA, and passes that leave it unchanged."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from transformers import PreTrainedModel

from terse.methods.forgetting.settings import ForgettingSettings


def prepare_base(lm: PreTrainedModel, settings: ForgettingSettings) -> None:
    """Freeze a base, or everything but the LoRA added to it."""
    if settings.train_base == "lora":
        from peft import LoraConfig, inject_adapter_in_model

        rank = settings.lora_rank
        config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear")
        inject_adapter_in_model(config, lm)
        for name, parameter in lm.named_parameters():
            parameter.requires_grad_("lora_" in name)
    else:
        lm.requires_grad_(settings.train_base == "full")


def merged(lm: PreTrainedModel) -> PreTrainedModel:
    """Return a copy of a model as a plain model, with its LoRA merged into its weights."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    plain = copy.deepcopy(lm)
    layers = [(n, m) for n, m in plain.named_modules() if isinstance(m, BaseTunerLayer)]
    for name, layer in layers:
        layer.merge()
        parent, _, child = name.rpartition(".")
        setattr(plain.get_submodule(parent), child, layer.get_base_layer())
    return plain


@contextmanager
def at_rest(lm: nn.Module) -> Iterator[None]:
    """Keep a model's dropout off and its weights out of the graph inside the context.

    Gradients still flow through it to its inputs.
    """
    was = lm.training
    learning = [p for p in lm.parameters() if p.requires_grad]
    lm.eval()
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
        lm.train(was)
