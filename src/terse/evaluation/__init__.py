"""Honest scores: bits per byte of the original text, next to what other coders need."""
