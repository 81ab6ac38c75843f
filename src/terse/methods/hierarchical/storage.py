"""Hierarchical autoencoders on disk, and what a second stage takes from a first."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from terse.errors import TerseError
from terse.methods.hierarchical.model import HierarchicalAutoencoder
from terse.methods.hierarchical.settings import HierarchicalSettings
from terse.methods.hierarchical.shared import check_shared
from terse.methods.hierarchical.spec import HIERARCHICAL
from terse.training.weights import read_tensors

CONFIG, WEIGHTS = "hierarchical.json", "model.safetensors"


def save_model(model: HierarchicalAutoencoder, folder: Path) -> None:
    """Write weights, codebooks and settings into a folder."""
    tensors = {name: tensor.contiguous().cpu() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    content = HIERARCHICAL.weight_params(model.settings)
    (folder / CONFIG).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def settings_in(folder: Path) -> HierarchicalSettings:
    """Return the settings of the model in a folder; TerseError if there is none."""
    try:
        content = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        return HIERARCHICAL.settings_from(content)
    except (OSError, ValueError, KeyError) as error:
        raise TerseError(
            f"no hierarchical model in {folder}: {CONFIG} is missing or broken"
        ) from error


def load_hierarchical(folder: Path) -> HierarchicalAutoencoder:
    """Return the model of a folder, in eval mode, without gradients."""
    model = HierarchicalAutoencoder(settings_in(folder))
    _load(model, read_tensors(folder / WEIGHTS)[0], folder)
    return model.eval().requires_grad_(False)


def take_base(model: HierarchicalAutoencoder, folder: Path) -> None:
    """Load the levels that a model keeps from its base, frozen: all of them in a second stage.

    Raises TerseError if the settings that shape them differ.
    """
    n = model.settings.n_frozen
    check_shared(model.settings, settings_in(folder))
    tensors, _ = read_tensors(folder / WEIGHTS)
    for name in (f"{kind}.{i}" for kind in ("compressors", "expanders") for i in range(n)):
        part = model.get_submodule(name)
        own = {
            key.removeprefix(f"{name}."): value
            for key, value in tensors.items()
            if key.startswith(f"{name}.")
        }
        _load(part, own, folder)
        part.requires_grad_(False).eval()


def take_entropy(model: HierarchicalAutoencoder, folder: Path, *, freeze: bool) -> None:
    """Load the base's next-symbol LMs, which decide where segments begin, into the levels.

    The shift of the base's thresholds is taken too, if both start from the same ones. Raises
    TerseError if the shapes differ.
    """
    theirs = load_hierarchical(folder)
    if len(theirs.levels) < len(model.levels):
        raise TerseError(f"the base in {folder} has fewer levels to take entropies from")
    for (ours, _), (base, _) in zip(model.levels, theirs.levels, strict=False):
        for part, source in zip(ours.entropy_parts(), base.entropy_parts(), strict=True):
            _load(part, source.state_dict(), folder)
            part.requires_grad_(not freeze)
        if ours.rule == base.rule:
            ours.shift.copy_(base.shift)


def _load(part: nn.Module, tensors: dict[str, torch.Tensor], folder: Path) -> None:
    try:
        part.load_state_dict(tensors)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise TerseError(f"the weights in {folder} have another shape: {reason}") from error
