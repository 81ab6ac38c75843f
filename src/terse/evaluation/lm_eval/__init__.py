"""The lm-eval library on models of the workflow: adapters, tasks made of a corpus, tables."""
