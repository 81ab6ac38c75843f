"""Encode the text of a run as the codes of its base, once."""

import pkgutil
from pathlib import Path

from terse import job


def encode_corpus(
    *,
    encoder: str,
    base_folder: Path,
    tokens_path: Path,
    codes_path: Path,
    device: str,
    batch_size: int,
    train_rows: int | None,
) -> None:
    """Write the codes of a run's text; encoder: the "module:function" of its method."""
    pkgutil.resolve_name(encoder)(
        base_folder, tokens_path, codes_path,
        device=device, batch_size=batch_size, train_rows=train_rows,
    )  # fmt: skip


if __name__ == "__main__":
    with job.logged(snakemake):
        encode_corpus(
            encoder=job.settings(snakemake).encoder(snakemake.wildcards.run),
            base_folder=Path(snakemake.input.base),
            tokens_path=Path(snakemake.input.tokens),
            codes_path=Path(snakemake.output.codes),
            device=job.device(snakemake),
            batch_size=snakemake.params.batch_size,
            train_rows=snakemake.params.train_rows,
        )
