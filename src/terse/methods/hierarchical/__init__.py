"""Method `hierarchical`: bytes become a few codes, and a language model reads the codes."""
