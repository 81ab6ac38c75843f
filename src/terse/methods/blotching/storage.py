"""Blotching models on disk: the language model in transformers' format, and our own tensors."""

from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from terse.errors import TerseError
from terse.methods.blotching.model import Blotcher
from terse.training.weights import read_tensors

WEIGHTS = "blotching.safetensors"  # the tensors in addition to the language model


def save_blotcher(model: Blotcher, folder: Path) -> None:
    """Write the language model in the Hugging Face format, with intensities and positions."""
    model.lm.save_pretrained(folder)
    tensors = {name: tensor.contiguous().cpu() for name, tensor in _own(model).items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def take_own(model: Blotcher, folder: Path) -> None:
    """Load the other tensors of a folder into a model whose language model is loaded.

    Raises TerseError if they are missing, broken, or from a run with other settings.
    """
    path = folder / WEIGHTS
    tensors, _ = read_tensors(path)
    if _shapes(tensors) != _shapes(_own(model)):
        raise TerseError(f"{path} belongs to another run: train this one again")
    model.load_state_dict(tensors, strict=False)


def _own(model: Blotcher) -> dict[str, Tensor]:
    return {name: t for name, t in model.state_dict().items() if not name.startswith("lm.")}


def _shapes(tensors: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}
