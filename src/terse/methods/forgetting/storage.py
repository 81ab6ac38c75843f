"""A trained mask on disk, next to its model."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from terse.errors import TerseError
from terse.methods.forgetting.base_lm import merged
from terse.methods.forgetting.baselines import SurprisalMask
from terse.methods.forgetting.decisions import Calibration
from terse.methods.forgetting.model import Forgetter
from terse.methods.forgetting.spec import FORGETTING
from terse.training.weights import read_tensors

CONFIG, WEIGHTS = "forgetter.json", "mask.safetensors"


def save_forgetter(model: Forgetter, folder: Path, calibration: Calibration | None) -> None:
    """Write the language model in the Hugging Face format, with the mask and its thresholds."""
    lm = merged(model.lm) if model.settings.train_base == "lora" else model.lm
    lm.save_pretrained(folder)
    tensors = {name: t.detach().contiguous().cpu() for name, t in _own(model).items()}
    if calibration is not None:
        tensors["quantiles"] = calibration.quantiles
    if isinstance(model.mask, SurprisalMask):
        tensors["counts"] = model.mask.get_buffer("counts").cpu()
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    settings = FORGETTING.weight_params(model.settings)
    content = {"settings": settings, "multiplier": float(model.multiplier)}
    (folder / CONFIG).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def load_mask(model: Forgetter, folder: Path) -> Calibration | None:
    """Load the mask of a folder into a model, and return its calibration.

    Raises TerseError if there is none, or if it has other settings.
    """
    tensors, _ = read_tensors(folder / WEIGHTS)
    quantiles = tensors.pop("quantiles", None)
    tensors.pop("counts", None)  # the mask is built from them
    own = _own(model)
    if wrong := set(own) ^ set(tensors):
        raise TerseError(f"the mask in {folder} has other settings: {sorted(wrong)[0]}")
    for name, tensor in own.items():
        tensor.copy_(tensors[name])
    return None if quantiles is None else Calibration(quantiles)


def published_counts(folder: Path) -> Tensor | None:
    """Return the counts (V,) from which a folder's mask was built, None if it has none."""
    return read_tensors(folder / WEIGHTS)[0].get("counts")


def forgetter_config(folder: Path) -> dict[str, Any]:
    """Return what is stored about the mask in a folder, such as the run's `settings`."""
    try:
        return json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TerseError(f"no mask in {folder}: {CONFIG} is missing or broken") from error


def _own(model: Forgetter) -> dict[str, Any]:
    return {f"mask.{name}": tensor.data for name, tensor in model.mask.named_parameters()}
