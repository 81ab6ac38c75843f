"""How large a workflow is before it runs: contexts, bytes, shards, hours and memory of its rules.

What the configuration does not say is taken from what is on the disk already (chunks, documents, a
model's config.json), else estimated; what nothing tells is left out, and the table says so.
"""
