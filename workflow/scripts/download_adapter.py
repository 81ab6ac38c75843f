"""Fetch a PEFT adapter from the hub."""

from pathlib import Path

from terse import job
from terse.hub.download import download_model
from terse.hub.unreachable import noted


def download_adapter(*, name: str, hub: str, revision: str, folder: Path) -> None:
    """Publish the folder of the adapter, completely or not at all."""
    with noted(name):
        download_model(hub, revision, folder, adapter=True)


if __name__ == "__main__":
    with job.logged(snakemake, network=True):
        download_adapter(
            name=snakemake.wildcards.model,
            hub=snakemake.params.hub,
            revision=snakemake.params.revision,
            folder=Path(snakemake.output.adapter),
        )
