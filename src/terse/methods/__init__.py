"""Methods, one folder each: what is trained, how it is scored, what it costs."""
