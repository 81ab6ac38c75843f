"""Infinite and NaN values: whatever holds one is never saved, logged or published."""

import math
from collections.abc import Mapping
from pathlib import Path

from safetensors import safe_open

from terse.errors import TerseError


def check_row(row: Mapping[str, object], step: int) -> None:
    """Raise TerseError where a number in a row of the history is infinite or NaN."""
    for name, value in row.items():
        if isinstance(value, float) and not math.isfinite(value):
            what = {"loss": "the loss", "eval_loss": "the validation loss"}.get(name, name)
            raise TerseError(f"{what} is {value} at step {step}: lower lr, or check the rows")


def check_weights(folder: Path, step: int) -> None:
    """Raise TerseError where a tensor that was just written to a folder is not finite."""
    for file in sorted(folder.rglob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not a mapping
                values = tensors.get_tensor(name)
                if values.is_floating_point() and not bool(values.isfinite().all()):
                    raise TerseError(
                        f"the weights {name} hold a value that is not finite after step {step}: "
                        "lower lr, or check the rows"
                    )
