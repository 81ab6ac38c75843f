"""Turn the documents of a corpus into tokens."""

from pathlib import Path

from terse import job
from terse.corpora.tokenizers import load_tokenizer
from terse.corpora.tokens import tokenize_documents


def tokenize_corpus(
    *,
    documents_path: Path,
    tokenizer_folder: Path,
    trust_remote_code: bool,
    tokens_path: Path,
    n_procs: int,
) -> None:
    """Write the tokens of both splits."""
    tokenizer = load_tokenizer(tokenizer_folder, trust_remote_code)
    tokenize_documents(documents_path, tokenizer, tokens_path, n_procs=n_procs)


if __name__ == "__main__":
    with job.logged(snakemake):
        tokenize_corpus(
            documents_path=Path(snakemake.input.documents),
            tokenizer_folder=job.folder_of(snakemake.input.tokenizer),
            trust_remote_code=snakemake.params.trust_remote_code,
            tokens_path=Path(snakemake.output.tokens),
            n_procs=snakemake.threads,
        )
