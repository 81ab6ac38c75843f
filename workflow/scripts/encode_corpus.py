"""Turn the text of a run into the codes of its base, once for all."""

from pathlib import Path

from terse import job
from terse.methods.hierarchical.codes import encode_corpus
from terse.methods.hierarchical.storage import load_hierarchical

if __name__ == "__main__":
    with job.logged(snakemake):
        encode_corpus(
            load_hierarchical(Path(snakemake.input.base)),
            Path(snakemake.input.tokens),
            Path(snakemake.output.codes),
            device=job.device(snakemake),
            batch_size=snakemake.params.batch_size,
            train_rows=snakemake.params.train_rows,
        )
