"""Method `forgetting`: a mask learns which tokens a language model can do without."""

import terse.config  # noqa: F401 - first: its registry of methods imports our settings
from terse.models.forgetting.decisions import create_random_forgetting_mask
from terse.models.forgetting.packing import Packed, apply_mask, pack

__all__ = ["Packed", "apply_mask", "create_random_forgetting_mask", "pack"]
