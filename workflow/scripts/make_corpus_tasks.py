"""Make small tasks for lm-eval from a corpus' validation documents."""

from pathlib import Path

from terse import job
from terse.evaluation.lm_eval.corpus_tasks import make_corpus_tasks

if __name__ == "__main__":
    with job.logged(snakemake):
        make_corpus_tasks(Path(snakemake.input.documents), Path(snakemake.output.folder))
