"""Where text comes from, and how it becomes documents, tokens, chunks and windows."""
