"""Activations of a model over the contexts of a corpus: captured, reduced, cached, read again."""
