"""Documents in a dataset of the Hugging Face hub."""

import logging
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, cast

from pyarrow import ArrowException

from terse.corpora.document import Document
from terse.corpora.local import in_subset, parts_of_names
from terse.corpora.records import record_document, row_filter
from terse.errors import TerseError, unknown_name
from terse.hub.errors import chain, explain, hub_errors, one_line
from terse.settings.corpora import Corpus

if TYPE_CHECKING:
    from datasets import Dataset, DatasetBuilder


logger = logging.getLogger(__name__)

STREAM_RATIO = 10  # a corpus more than this many times larger than requested is streamed
BATCH_ROWS = 256
READABLE = (".parquet", ".arrow", ".csv", ".txt", ".json", ".jsonl", ".gz", ".zst", ".bz2", ".xz")


def read_hub(settings: Corpus, n_procs: int) -> Iterator[Document]:
    """Yield a document per row of a split, in order; memory stays bounded.

    The split is streamed if `max_dataset_size` is far below its size (or its size is unknown),
    else downloaded and prepared by n_procs processes. Raises TerseError for whatever is missing.
    """
    from datasets.exceptions import DatasetsError  # slow to import, and only this source needs it

    with hub_errors("dataset", settings.path or "", settings.revision):
        builder = find_builder(settings)
        keeps = row_filter(settings.dataset_subset)
        try:
            for number, record in enumerate(records(builder, settings, n_procs)):
                if keeps(record):
                    place = f"row {number} of {settings.path}"
                    yield record_document(
                        record, settings.text_column, str(number), place, settings.second_column
                    )
        except (DatasetsError, ArrowException) as error:
            raise unreadable(settings, error) from error


def find_builder(settings: Corpus) -> "DatasetBuilder":
    """Return the builder of the dataset at its revision, restricted to the requested files."""
    from datasets import load_dataset_builder
    from datasets.exceptions import DatasetsError

    commit, data_files = look_up(settings)
    try:
        return load_dataset_builder(
            settings.path or "",
            settings.name,
            revision=commit,
            data_files={settings.split: data_files} if data_files else None,
        )
    except (RuntimeError, ValueError, DatasetsError) as error:
        raise unreadable(settings, error) from error


def unreadable(settings: Corpus, error: Exception) -> TerseError:
    """Return the error for a dataset that exists but can't be read."""
    sentence = explain(error, "dataset", settings.path or "", settings.revision)
    if sentence is not None:
        return TerseError(sentence)
    if "scripts are no longer supported" in str(error):
        return TerseError(
            f"dataset {settings.path} is made by its own script, which the datasets "
            'library no longer runs; try revision: "refs/convert/parquet"'
        )
    return TerseError(f"cannot read dataset {settings.path}: {one_line(list(chain(error))[-1])}")


def look_up(settings: Corpus) -> tuple[str, list[str] | None]:
    """Return the commit of the revision and the requested files; None: all of the split's.

    The hub is asked first, so that cached files can't replace a missing revision.
    """
    from huggingface_hub import HfApi, constants

    selects_files = bool(settings.files) or bool(parts_of_names(settings.dataset_subset))
    if constants.is_offline_mode() and not selects_files:
        return settings.revision, None
    path = settings.path or ""
    info = HfApi().dataset_info(path, revision=settings.revision)
    if info.gated:  # its info is public; datasets would hide why its files are not
        HfApi().auth_check(path, repo_type="dataset")
    if not selects_files:
        return info.sha or settings.revision, None
    globs = settings.files or ["*"]
    names = sorted(sibling.rfilename for sibling in info.siblings or [])
    if not settings.files:  # a number in dataset_subset counts files with text
        names = [name for name in names if name.lower().endswith(READABLE)] or names
    fitting = [name for name in names if any(fnmatchcase(name, glob) for glob in globs)]
    chosen = in_subset(fitting, settings.dataset_subset)
    if not chosen:
        subset = settings.dataset_subset
        raise TerseError(
            f"no file of dataset {settings.path} matches files {globs} and dataset_subset "
            f"{subset!r}"
        )
    return info.sha or settings.revision, chosen


def records(builder: "DatasetBuilder", settings: Corpus, n_procs: int) -> Iterator[dict[str, Any]]:
    """Yield the rows of the split, streamed or from disk."""
    split = settings.split
    known = builder.info.splits or {}
    if known and split.split("[")[0] not in known:
        raise unknown_name(f"split of dataset {settings.path}", split, map(str, known))
    size = known[split].num_examples if split in known else None
    if is_streamed(split, size, settings.max_dataset_size):
        logger.info("streaming %s", settings.path)
        yield from cast("Iterable[dict[str, Any]]", builder.as_streaming_dataset(split=split))
        return
    builder.download_and_prepare(num_proc=n_procs if n_procs > 1 else None)
    prepared = cast("Dataset", builder.as_dataset(split=split))
    for start in range(0, len(prepared), BATCH_ROWS):
        yield from prepared.select(range(start, min(start + BATCH_ROWS, len(prepared)))).to_list()


def is_streamed(split: str, size: int | None, limit: int | None) -> bool:
    """Return whether to stream, not download, when reading `limit` of a split's `size` rows."""
    if limit is None or "[" in split:  # a slice can't be streamed
        return False
    return size is None or size > STREAM_RATIO * limit
