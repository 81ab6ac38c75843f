"""Records (rows of a table, objects of a jsonl file) as documents."""

from collections.abc import Callable
from typing import Any

from terse.corpora.document import Document
from terse.errors import TerseError, unknown_name


def record_document(record: dict[str, Any], text_column: str, id: str, place: str) -> Document:
    """Return a record as a document; all columns but the text are its metadata.

    place: where the record stands, for the error. A text of None is an empty one.
    """
    if text_column not in record:
        error = unknown_name("text_column", text_column, map(str, record))
        raise TerseError(f"{place}: {error}")
    text = record[text_column]
    if text is not None and not isinstance(text, str):
        kind = type(text).__name__
        raise TerseError(f"{place}: text_column {text_column!r} holds {kind}, not text")
    return Document(id, text or "", {k: v for k, v in record.items() if k != text_column})


def row_filter(subset: str | None) -> Callable[[dict[str, Any]], bool]:
    """Return which records `dataset_subset` keeps: "meta.pile_set_name=Github" looks at a column.

    The name before "=" may lead into nested records with dots. A subset without "=" selects
    files, so it keeps every record.
    """
    if subset is None or "=" not in subset:
        return lambda record: True
    name, value = subset.split("=", 1)

    def keeps(record: dict[str, Any]) -> bool:
        found: Any = record
        for part in name.split("."):
            if not isinstance(found, dict) or part not in found:
                columns = map(str, found) if isinstance(found, dict) else []
                raise unknown_name(f"column of dataset_subset {subset!r}:", part, columns)
            found = found[part]
        return str(found) == value

    return keeps
