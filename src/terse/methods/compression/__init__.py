"""Method `compression`: a frozen language model reads k tokens of context from c << k vectors."""
