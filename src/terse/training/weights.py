"""Tensors of a safetensors file, with a readable error."""

from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from terse.errors import TerseError


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of a safetensors file by name, on the CPU, and its metadata.

    Raises TerseError where it is missing or broken.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise TerseError(f"cannot read {path}: {error}") from error
