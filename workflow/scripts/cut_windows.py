"""Cut the contexts and targets of a study of the frontier."""

from pathlib import Path

from terse import job
from terse.corpora.documents import read_documents
from terse.evaluation.frontier.windows import cut_windows as cut
from terse.evaluation.frontier.windows import write_windows


def cut_windows(*, windows: dict[str, int], documents_path: Path, windows_path: Path) -> None:
    """Write the windows of a corpus' validation documents, one row each."""
    documents = (row for rows in read_documents(documents_path, "validation") for row in rows)
    write_windows(cut(documents, **windows), windows_path)


if __name__ == "__main__":
    with job.logged(snakemake):
        cut_windows(
            windows=snakemake.params.windows,
            documents_path=Path(snakemake.input.documents),
            windows_path=Path(snakemake.output.windows),
        )
