"""Compare cached activations with their checksums."""

from pathlib import Path

from terse import job
from terse.activations import cache


def verify_activations(*, folders: list[Path]) -> None:
    """Read every row of these shards again; an error names the first damaged rows."""
    for folder in folders:
        cache.verify(folder)


if __name__ == "__main__":
    with job.logged(snakemake):
        shards = [Path(shard) for shard in snakemake.input.shards]
        verify_activations(folders=list(dict.fromkeys(shard.parent for shard in shards)))
