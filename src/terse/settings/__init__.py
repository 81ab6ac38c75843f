"""Blocks of configuration keys, one file each: names, ranges, defaults. No torch, no methods."""
