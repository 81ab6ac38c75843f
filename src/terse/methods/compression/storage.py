"""Compressors and compressed contexts on disk: only trained tensors, and their base."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from terse.errors import TerseError
from terse.methods.compression.model import Compressor
from terse.methods.compression.spec import COMPRESSION
from terse.provenance import digest_file, digest_json
from terse.training.weights import read_tensors

CONFIG, WEIGHTS = "compressor.json", "model.safetensors"


def save_compressor(model: Compressor, folder: Path, base: dict[str, Any]) -> None:
    """Write the trained tensors to a folder; `base` holds the base's `name` and `digest`."""
    tensors = {name: tensor.contiguous().cpu() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    content: dict[str, Any] = {"base": base}
    content["settings"] = COMPRESSION.result_params(model.settings)
    if model.cached:
        content["start"] = model.start
    (folder / CONFIG).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def load_compressor(folder: Path, lm: PreTrainedModel, digest: str) -> Compressor:
    """Return the compressor of a folder on its base `lm`, in eval mode.

    digest: of `lm`. Raises TerseError if it is not the base that the compressor was trained on.
    """
    content = compressor_config(folder)
    trained_on = content["base"]
    if trained_on["digest"] != digest:
        raise TerseError(
            f"the compressor in {folder} was trained on {trained_on['name']!r} with other weights "
            f"(digest {trained_on['digest'][:12]}, given {digest[:12]}); train it again"
        )
    settings = COMPRESSION.settings_from(content["settings"])
    model = Compressor(lm, settings, content.get("start"))
    model.load_state_dict(read_tensors(folder / WEIGHTS)[0])
    return model.eval()


def compressor_config(folder: Path) -> dict[str, Any]:
    """Return the base and the settings of the compressor in a folder."""
    try:
        return json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TerseError(f"no compressor in {folder}: {CONFIG} is missing or broken") from error


def identity_of(folder: Path) -> str:
    """Return the digest of a compressor's weights and base; no other can read its vectors."""
    content = compressor_config(folder)
    weights = digest_file(folder / WEIGHTS)
    return digest_json([content["base"]["digest"], content["settings"], weights])


def save_vectors(path: Path, Z: Tensor, compressor: str) -> None:
    """Write compressed contexts Z (B, spans x c, E); `compressor` is its `identity_of`."""
    metadata = {"format": "pt", "compressor": compressor}
    save_file({"vectors": Z.detach().contiguous().cpu()}, path, metadata=metadata)


def load_vectors(path: Path, compressor: str) -> Tensor:
    """Return compressed contexts (B, spans x c, E).

    Raises TerseError if they were made by another compressor.
    """
    tensors, metadata = read_tensors(path)
    if metadata.get("compressor") != compressor or "vectors" not in tensors:
        raise TerseError(f"the vectors in {path} were made by another compressor")
    return tensors["vectors"]
