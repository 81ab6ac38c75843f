"""Cut the contexts on which a model is measured."""

from pathlib import Path
from typing import Any

from terse import job
from terse.corpora.chunks import chunk_documents


def chunk_corpus(*, chunking: dict[str, Any], tokens_path: Path, chunks_path: Path) -> None:
    """Write the chunks that the settings define."""
    options = {key: value for key, value in chunking.items() if key != "corpus"}
    options["split"] = options.pop("documents")
    options["seed"] = options.pop("chunk_seed")
    chunk_documents(tokens_path, chunks_path, **options)


if __name__ == "__main__":
    with job.logged(snakemake):
        chunk_corpus(
            chunking=snakemake.params.chunking,
            tokens_path=Path(snakemake.input.tokens),
            chunks_path=Path(snakemake.output.chunks),
        )
