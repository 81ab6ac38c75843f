"""The frontier: what each way to shorten a context costs in bits per byte of the same targets."""
