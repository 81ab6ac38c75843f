"""The registry of methods: a new one is a folder under `terse.models` and a line here."""

from typing import Any

from terse.methods.blotching.settings import BlotchingSettings
from terse.methods.causal_lm.settings import CausalLMSettings
from terse.methods.compression.settings import CompressionSettings
from terse.methods.forgetting.settings import ForgettingSettings
from terse.methods.hierarchical.settings import HierarchicalSettings
from terse.settings.run import Run

METHODS: dict[str, type[Run]] = {
    "blotching": BlotchingSettings,
    "causal-lm": CausalLMSettings,
    "compression": CompressionSettings,
    "forgetting": ForgettingSettings,
    "hierarchical": HierarchicalSettings,
}


def settings_of(params: dict[str, Any]) -> Run:
    """Return the typed settings of a run from the params of its rule (see `Run.params`)."""
    return METHODS[params["method"]].from_params(params)
