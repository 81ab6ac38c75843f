"""Read a corpus' documents into one parquet file."""

from pathlib import Path
from typing import Any

from terse import job
from terse.artifacts import write_json
from terse.corpora.documents import write_documents
from terse.provenance import record
from terse.settings.corpora import Corpus


def collect_corpus(
    *, corpus: dict[str, Any], documents_path: Path, record_path: Path, n_procs: int
) -> None:
    """Write the documents and a record with their counts and fingerprint."""
    found = write_documents(Corpus.model_validate(corpus), documents_path, n_procs=n_procs)
    write_json(record_path, record(settings=corpus, inputs={}, device="cpu", **found))


if __name__ == "__main__":
    with job.logged(snakemake, network=True):
        collect_corpus(
            corpus=snakemake.params.corpus,
            documents_path=Path(snakemake.output.documents),
            record_path=Path(snakemake.output.record),
            n_procs=snakemake.threads,
        )
