"""One stream of documents, whatever the source of the corpus."""

from collections.abc import Callable, Iterator
from itertools import islice

from terse.corpora import files, hub, stdlib
from terse.corpora.document import Document
from terse.corpora.steps import with_steps
from terse.settings.corpora import Corpus

READERS: dict[str, Callable[[Corpus, int], Iterator[Document]]] = {
    "hub": hub.read_hub,
    "jsonl": lambda settings, n_procs: files.read_jsonl(settings),
    "parquet": lambda settings, n_procs: files.read_parquet(settings),
    "python-docs": lambda settings, n_procs: stdlib.read_python_docs(),
    "text": lambda settings, n_procs: files.read_text(settings),
}


def iterate_documents(settings: Corpus, n_procs: int = 1) -> Iterator[Document]:
    """Yield the documents of a corpus in a fixed order, at most `max_dataset_size`.

    n_procs: processes that prepare a downloaded dataset. Raises TerseError if the corpus can't be
    read.
    """
    documents = islice(READERS[settings.source](settings, n_procs), settings.max_dataset_size)
    return (
        documents if settings.step_pattern is None else with_steps(documents, settings.step_pattern)
    )
