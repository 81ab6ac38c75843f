"""The process that runs Snakemake: one at a time in a folder, its roots, its queue, its set-up."""
