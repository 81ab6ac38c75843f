"""Encode the text of a run as the codes of its base, once."""

import pkgutil
from pathlib import Path

from terse import job

if __name__ == "__main__":
    with job.logged(snakemake):
        encode = pkgutil.resolve_name(job.settings(snakemake).encoder(snakemake.wildcards.run))
        encode(
            Path(snakemake.input.base),
            Path(snakemake.input.tokens),
            Path(snakemake.output.codes),
            device=job.device(snakemake),
            batch_size=snakemake.params.batch_size,
            train_rows=snakemake.params.train_rows,
        )
