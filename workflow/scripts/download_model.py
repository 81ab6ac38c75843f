"""Fetch a model from the hub."""

from pathlib import Path

from terse import job
from terse.hub.download import download_model
from terse.hub.unreachable import noted

if __name__ == "__main__":
    with job.logged(snakemake, network=True), noted(snakemake.wildcards.model):
        download_model(
            snakemake.params.hub,
            snakemake.params.revision,
            Path(snakemake.output.model),
            trust_remote_code=snakemake.params.trust_remote_code,
        )
