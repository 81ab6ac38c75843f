"""The lm-eval library on models of the workflow: adapters, tasks from a corpus, tables."""
