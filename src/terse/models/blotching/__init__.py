"""Method `blotching`: chains of reasoning are trained on with whole steps left out."""

import terse.config  # noqa: F401 - first: its registry of methods imports our settings
