"""Method `causal-lm`: a language model trained on the plain text of a corpus."""
