"""Scaling of rotary positions that a GGUF file states and transformers' reader ignores."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader
from transformers import PreTrainedModel

from terse.errors import TerseError

FACTORS = "rope_freqs.weight"
# Constants of all Llama 3.1 to 3.3 models: only the factor and the first context length differ.
_LOW, _HIGH, _FIRST_CONTEXT = 1.0, 4.0, 8192
_TOLERANCE = 1e-3


def restore_rope(model: PreTrainedModel, reader: GGUFReader, file: Path) -> None:
    """Add the scaling of rotary positions to a model's config if the file has one.

    llama.cpp writes Llama 3's as a divisor for each frequency (head_dim / 2,). Raises TerseError
    for divisors that are not Llama 3's and for other kinds (YaRN, linear), since the model would
    differ without them.
    """
    stated = _stated_kind(reader)
    factors = next((t.data for t in reader.tensors if t.name == FACTORS), None)
    rope = dict(getattr(model.config, "rope_parameters", None) or {})
    if rope.get("rope_type", "default") != "default":
        return
    if factors is None and stated in (None, "none"):
        return
    found = None if factors is None else _llama3(rope, np.asarray(factors, np.float64))
    if found is None:
        kind = stated if factors is None else "a divisor for each frequency"
        raise TerseError(
            f"the GGUF file {file} scales its rotary positions ({kind}) in a way that is not read "
            "from GGUF: use the model in the Hugging Face format"
        )
    model.config.rope_parameters = found


def _stated_kind(reader: GGUFReader) -> str | None:
    for name, field in reader.fields.items():
        if name.endswith(".rope.scaling.type"):
            return str(field.contents())
    return None


def _llama3(rope: dict[str, Any], factors: np.ndarray) -> dict[str, Any] | None:
    """Return the parameters that give these divisors (head_dim / 2,), None if there are none."""
    theta, half = float(rope.get("rope_theta", 10_000.0)), len(factors)
    wavelengths = 2 * math.pi * theta ** (np.arange(half) / half)  # tokens
    factor = float(factors.max())
    expected = _divisors(wavelengths, factor)
    if factor <= 1 or not np.allclose(expected, factors, rtol=_TOLERANCE):
        return None
    return {
        **rope,
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": _LOW,
        "high_freq_factor": _HIGH,
        "original_max_position_embeddings": _FIRST_CONTEXT,
    }


def _divisors(wavelengths: np.ndarray, factor: float) -> np.ndarray:
    """Return what Llama 3 divides each frequency by (https://arxiv.org/abs/2407.21783)."""
    smooth = (_FIRST_CONTEXT / wavelengths - _LOW) / (_HIGH - _LOW)
    smooth = np.clip(smooth, 0.0, 1.0)
    return 1 / ((1 - smooth) / factor + smooth)
