"""Loading any causal language model of transformers, and finding its modules."""
