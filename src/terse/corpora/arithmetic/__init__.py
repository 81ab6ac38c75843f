"""Arithmetic with written-out solutions: problems, chains of statements, characters."""
