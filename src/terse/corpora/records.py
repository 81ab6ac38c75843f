"""Records (rows of a table, objects of a jsonl file) as documents."""

import json
from collections.abc import Callable
from typing import Any

from terse.corpora.document import Document
from terse.errors import TerseError, unknown_name
from terse.settings.corpora import Subset


def record_document(
    record: dict[str, Any],
    text_column: str,
    id: str,
    place: str,
    second_column: str | None = None,
) -> Document:
    """Return a record as a document; all columns but the text are its metadata.

    place: where the record is, for the error. A text of None is empty. second_column: the record
    is a pair, two lines of text; metadata `first_bytes` is the offset of the second.
    """
    text = _text_in(record, "text_column", text_column, place)
    columns = {text_column, second_column}
    metadata = {key: value for key, value in record.items() if key not in columns}
    if second_column is None:
        return Document(id, text, metadata)
    second = _text_in(record, "second_column", second_column, place)
    first = f"{text}\n"
    metadata["first_bytes"] = len(first.encode(errors="replace"))
    return Document(id, first + second if text and second else "", metadata)


def _text_in(record: dict[str, Any], key: str, column: str, place: str) -> str:
    if column not in record:
        raise TerseError(f"{place}: {unknown_name(key, column, map(str, record))}")
    text = record[column]
    if text is not None and not isinstance(text, str):
        raise TerseError(f"{place}: {key} {column!r} holds {type(text).__name__}, not text")
    return text or ""


def row_filter(subset: Subset) -> Callable[[dict[str, Any]], bool]:
    """Return which records `dataset_subset` keeps: "meta.pile_set_name=Github" compares a column.

    Dots in the name before "=" address nested records. Of a list, one match is enough. What has no
    "=" selects files, so it keeps every record.
    """
    parts = subset if isinstance(subset, list) else [subset]
    filters = [_one_filter(part) for part in parts if isinstance(part, str) and "=" in part]
    return lambda record: not filters or any(keeps(record) for keeps in filters)


def _one_filter(subset: str) -> Callable[[dict[str, Any]], bool]:
    name, value = subset.split("=", 1)

    def keeps(record: dict[str, Any]) -> bool:
        found: Any = record
        for part in name.split("."):
            if found is None:  # an empty parent
                return False
            if not isinstance(found, dict) or part not in found:
                columns = map(str, found) if isinstance(found, dict) else []
                raise unknown_name(f"column of dataset_subset {subset!r}:", part, columns)
            found = found[part]
        return value in (str(found), json.dumps(found, default=str))  # True, and true

    return keeps
