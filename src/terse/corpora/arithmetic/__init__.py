"""Arithmetic with its solution written out: problems, chains of statements, characters."""
