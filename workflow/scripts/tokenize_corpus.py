"""Turn the documents of a corpus into tokens."""

from pathlib import Path

from terse import job
from terse.corpora.tokenizers import load_tokenizer
from terse.corpora.tokens import tokenize_documents


def tokenize_corpus(
    *, documents_path: Path, tokenizer_folder: Path, tokens_path: Path, n_procs: int
) -> None:
    """Write the tokens of both splits."""
    tokenize_documents(
        documents_path, load_tokenizer(tokenizer_folder), tokens_path, n_procs=n_procs
    )


if __name__ == "__main__":
    with job.logged(snakemake):
        tokenize_corpus(
            documents_path=Path(snakemake.input.documents),
            tokenizer_folder=job.folder_of(snakemake.input.tokenizer),
            tokens_path=Path(snakemake.output.tokens),
            n_procs=snakemake.threads,
        )
