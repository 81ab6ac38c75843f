"""What the settings of a run must share with those of the base whose levels it keeps."""

from typing import Any

from terse.errors import TerseError
from terse.methods.hierarchical.settings import HierarchicalSettings

# Keys that a run must share with the base whose levels it takes.
SHARED = (
    "compressor_level_configs", "sequence_length", "expander_dim_scale", "expander_heads_scale",
    "expander_num_enc_layers", "expander_num_dec_layers", "expander_lookback",
    "use_decoder_only_expander", "expander_memory",
)  # fmt: skip


def check_shared(run: HierarchicalSettings, base: HierarchicalSettings) -> None:
    """Raise TerseError if a run keeps levels of its base, but its settings shape them differently.

    All levels in a second stage, else the lowest `freeze_levels`.
    """
    if not (n := run.n_frozen):
        return
    if base.num_levels < n or (run.is_second_stage and base.num_levels > n):
        raise TerseError(f"num_levels is not the base's: {base.num_levels} in the base, {n} here")
    for key in SHARED:
        theirs, ours = (s.model_dump(mode="json")[key] for s in (base, run))
        if key == "compressor_level_configs":
            theirs, ours = theirs[:n], ours[:n]
        if theirs != ours:
            raise TerseError(
                f"{key} is not the base's: {_difference(theirs, ours)}; the base's levels stay "
                "frozen"
            )


def _difference(theirs: Any, ours: Any) -> str:
    """Return how two settings differ, in words."""
    if isinstance(theirs, list) and isinstance(ours, list) and len(theirs) == len(ours):
        for level, (a, b) in enumerate(zip(theirs, ours, strict=True)):
            for key in a if isinstance(a, dict) else ():
                if a[key] != b[key]:
                    return f"level {level}, {key} {a[key]} in the base, {b[key]} here"
    return f"{theirs} in the base, {ours} here"
