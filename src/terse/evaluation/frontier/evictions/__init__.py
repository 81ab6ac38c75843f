"""Published scores of the entries of a cache of keys and values, one file each.

Each agrees with kvpress 0.5.5 (benchmarks/bench_frontier.py).
"""
