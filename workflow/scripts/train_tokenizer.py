"""Train a byte-level BPE tokenizer on a corpus."""

from pathlib import Path
from typing import Any

from terse import job
from terse.artifacts import write_json
from terse.corpora.tokenizers import train_bpe
from terse.provenance import digest_file, record


def train_tokenizer(*, tokenizer: dict[str, Any], documents_path: Path, folder: Path) -> None:
    """Write the tokenizer's files and a record into `folder`."""
    train_bpe(documents_path, vocab_size=tokenizer["vocab_size"], seed=0, folder=folder)
    inputs = {"documents": digest_file(documents_path)}
    write_json(
        folder / "run.json",
        record(settings=tokenizer, inputs=inputs, device="cpu"),
    )


if __name__ == "__main__":
    with job.logged(snakemake):
        train_tokenizer(
            tokenizer=snakemake.params.tokenizer,
            documents_path=Path(snakemake.input.documents),
            folder=Path(snakemake.output.tokenizer).parent,
        )
