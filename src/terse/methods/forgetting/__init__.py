"""Method `forgetting`: a mask learns which tokens a language model can do without."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from terse.methods.forgetting.decisions import create_random_forgetting_mask
    from terse.methods.forgetting.packing import Packed, apply_mask, pack
    from terse.methods.forgetting.reinforcement import reinforce_model, two_step_reinforce_model

__all__ = [
    "Packed",
    "apply_mask",
    "create_random_forgetting_mask",
    "pack",
    "reinforce_model",
    "two_step_reinforce_model",
]
_HOMES = {
    "create_random_forgetting_mask": "decisions",
    "reinforce_model": "reinforcement",
    "two_step_reinforce_model": "reinforcement",
}


def __getattr__(name: str) -> Any:
    """Import public names on first access: the configuration imports no torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = importlib.import_module(f"{__name__}.{_HOMES.get(name, 'packing')}")
    return getattr(home, name)
