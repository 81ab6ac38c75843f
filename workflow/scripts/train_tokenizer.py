"""Train a byte-level BPE tokenizer on a corpus, or write the one with bytes as tokens."""

from pathlib import Path
from typing import Any

from terse import job
from terse.artifacts import write_json
from terse.corpora.tokenizers import make_byte_tokenizer, train_bpe
from terse.provenance import digest_file, record


def train_tokenizer(
    *, tokenizer: dict[str, Any], documents_path: Path | None, folder: Path
) -> None:
    """Write the tokenizer's files and a record into `folder`; bytes need no documents."""
    inputs = {}
    if documents_path is None:
        make_byte_tokenizer(folder)
    else:
        train_bpe(documents_path, vocab_size=tokenizer["vocab_size"], seed=0, folder=folder)
        inputs["documents"] = digest_file(documents_path)
    write_json(
        folder / "run.json",
        record(settings=tokenizer, inputs=inputs, device="cpu"),
    )


if __name__ == "__main__":
    with job.logged(snakemake):
        train_tokenizer(
            tokenizer=snakemake.params.tokenizer,
            documents_path=job.optional_path(snakemake.input.documents),
            folder=Path(snakemake.output.tokenizer).parent,
        )
