"""The quantisation that the weights in a folder had or have."""

import json
from pathlib import Path
from typing import Any


def quantisation_of(folder: Path) -> str | None:
    """Return the quantisation that a folder's weights had or have, None for plain weights.

    For example "Q4_1" for a dequantised GGUF file, "gptq" for a checkpoint that is loaded
    quantised; an adapter has its base's.
    """
    weights = _json(folder / "run.json").get("weights", {})
    if weights.get("quantisation"):
        return str(weights["quantisation"])
    stated = _json(folder / "config.json").get("quantization_config") or {}
    return stated.get("quant_method")


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
