"""One training path for every method, on the Hugging Face Trainer."""
