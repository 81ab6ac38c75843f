"""The Hugging Face hub: downloads of models, and its errors as sentences."""
