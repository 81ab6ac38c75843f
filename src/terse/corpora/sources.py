"""One stream of documents, whatever the corpus comes from."""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Protocol

from terse.corpora import files, hub, stdlib
from terse.corpora.document import Document
from terse.corpora.steps import with_steps
from terse.errors import unknown_name


class CorpusSettings(Protocol):
    """What a corpus is made of; the typed config's corpus has these attributes."""

    @property
    def source(self) -> str:
        """Where it comes from: "python-docs", "hub", "parquet", "jsonl" or "text"."""
        ...

    @property
    def path(self) -> str | None:
        """The hub id, or a local file or folder."""
        ...

    @property
    def name(self) -> str | None:
        """Configuration of a hub dataset, such as "wikitext-103-raw-v1"."""
        ...

    @property
    def split(self) -> str:
        """Split of a hub dataset that is read."""
        ...

    @property
    def revision(self) -> str:
        """Revision of a hub dataset."""
        ...

    @property
    def files(self) -> list[str] | None:
        """Globs below the path, None for the usual ones of the source."""
        ...

    @property
    def text_column(self) -> str:
        """Column that holds the text."""
        ...

    @property
    def second_column(self) -> str | None:
        """Column that holds the second text of a pair, None where rows are no pairs."""
        ...

    @property
    def dataset_subset(self) -> str | None:
        """Glob over names of files, or "column=value" to select rows, None for all."""
        ...

    @property
    def step_pattern(self) -> str | None:
        """Regular expression that ends each step of a document, None for documents as a whole."""
        ...

    @property
    def max_dataset_size(self) -> int | None:
        """Documents at most, None for all."""
        ...

    @property
    def validation_fraction(self) -> float:
        """Share of the documents held out, in [0, 1)."""
        ...

    @property
    def seed(self) -> int:
        """Seed of the split."""
        ...


READERS: dict[str, Callable[[CorpusSettings, int], Iterator[Document]]] = {
    "hub": hub.read_hub,
    "jsonl": lambda settings, n_procs: files.read_jsonl(settings),
    "parquet": lambda settings, n_procs: files.read_parquet(settings),
    "python-docs": lambda settings, n_procs: stdlib.read_python_docs(),
    "text": lambda settings, n_procs: files.read_text(settings),
}


def iterate_documents(settings: CorpusSettings, n_procs: int = 1) -> Iterator[Document]:
    """Yield the documents of a corpus in a fixed order, `max_dataset_size` of them at most.

    n_procs: processes that prepare a downloaded dataset. Raises TerseError for an unknown source,
    and where the corpus cannot be read.
    """
    if settings.source not in READERS:
        raise unknown_name("source", settings.source, READERS)
    documents = islice(READERS[settings.source](settings, n_procs), settings.max_dataset_size)
    return (
        documents if settings.step_pattern is None else with_steps(documents, settings.step_pattern)
    )
