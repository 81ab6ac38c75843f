"""Method `compression`: a frozen language model reads k tokens of context from c << k vectors."""

import terse.config  # noqa: F401 - first: its registry of methods imports our settings
