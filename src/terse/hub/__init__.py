"""The Hugging Face hub: downloads of models, and its errors in one line each."""
