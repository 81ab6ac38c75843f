"""Loading any model, and one file or folder per method: tensors, no paths, no config files."""
