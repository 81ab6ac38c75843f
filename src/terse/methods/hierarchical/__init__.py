"""Method `hierarchical`: bytes are encoded as a few codes, which a language model reads."""
