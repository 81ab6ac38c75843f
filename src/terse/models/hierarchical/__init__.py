"""Method `hierarchical`: bytes become a few codes, and a language model reads the codes."""

import terse.config  # noqa: F401 - first: its registry of methods imports our settings
