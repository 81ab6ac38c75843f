"""The tidy table of one model as two files: CSV for people, Parquet for programs."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import csv

from terse.artifacts import atomic_file
from terse.dimension.statistics import summarise
from terse.errors import TerseError

_WORD = pa.dictionary(pa.int32(), pa.string())
SCHEMA = pa.schema(
    {
        "model": _WORD, "revision": _WORD, "corpus": _WORD, "row": pa.int64(), "document": _WORD,
        "chunk": pa.int64(), "module": _WORD, "layer": pa.int64(), "estimator": _WORD,
        "id": pa.float64(), "id_without_sinks": pa.float64(), "n_eff": pa.int64(),
        "n_dup": pa.int64(), "n_heavy": pa.int64(), "heaviest": pa.float64(),
        "first_share": pa.float64(), "flags": pa.string(), "loss_nats": pa.float64(),
        "entropy_nats": pa.float64(),
    }
)  # fmt: skip
_ROWS = 2**19  # of a row group: what is in memory at a time
_INCOMPRESSIBLE = ("id", "id_without_sinks", "first_share")  # digits that no earlier row has
_NEEDS_QUOTES = re.compile(r'[",\r\n]')


def write_table(parts: Iterable[pd.DataFrame], csv_path: Path, parquet_path: Path) -> pd.DataFrame:
    """Write the table to both files, a module at a time, and return its summary."""
    summaries = []
    with (
        atomic_file(csv_path) as for_people,
        atomic_file(parquet_path) as for_programs,
        writing(for_people, for_programs) as append,
    ):
        for part in parts:
            append(part)
            summaries.append(summarise(part))
    return pd.concat(summaries, ignore_index=True)


@contextmanager
def writing(csv_path: Path, parquet_path: Path) -> Iterator[Callable[[pd.DataFrame], None]]:
    """Yield a function that appends a part of the table to both files.

    Parts have the columns of `SCHEMA` in its order. Numbers read back from either file to the same
    bits, if the reader of the CSV rounds correctly; undefined ones are empty. Parts are in memory
    until half a million rows have gathered.
    """
    gathered: list[pa.Table] = []
    with ExitStack() as stack:
        sink = stack.enter_context(pa.OSFile(str(csv_path), "wb"))
        sink.write(f"{','.join(SCHEMA.names)}\n".encode())
        parquet = stack.enter_context(_parquet(parquet_path))

        def flush() -> None:
            if gathered:
                parquet.write_table(pa.concat_tables(gathered), row_group_size=2 * _ROWS)
                gathered.clear()

        def append(part: pd.DataFrame) -> None:
            table = _arrow(part)
            quoting = _quoting(part)
            text = table if quoting == "needed" else _formatted_once(table)
            options = csv.WriteOptions(include_header=False, quoting_style=quoting)
            csv.write_csv(text, sink, options)
            gathered.append(table)
            if sum(map(len, gathered)) >= _ROWS:
                flush()

        yield append
        flush()


def _parquet(path: Path) -> pq.ParquetWriter:
    """Return a writer whose pages are long: what repeats for each estimator is stored once."""
    plain = (*_INCOMPRESSIBLE, "row")
    return pq.ParquetWriter(
        path,
        SCHEMA,
        compression="zstd",
        use_dictionary=[name for name in SCHEMA.names if name not in plain],  # pyright: ignore[reportArgumentType]
        column_encoding={
            **dict.fromkeys(_INCOMPRESSIBLE, "BYTE_STREAM_SPLIT"),
            "row": "DELTA_BINARY_PACKED",
        },
        max_rows_per_page=2 * _ROWS,
    )


def _quoting(part: pd.DataFrame) -> str:
    """Return whether words need quotation marks: only where a user's names have such characters."""
    names = [name for name in ("model", "revision", "corpus", "document") if name in part]
    words = "\0".join(str(word) for name in names for word in _categories(pd.Series(part[name])))
    return "needed" if _NEEDS_QUOTES.search(words) else "none"


def _arrow(part: pd.DataFrame) -> pa.Table:
    return pa.table(
        [_column(pd.Series(part[field.name]), field.type) for field in SCHEMA], schema=SCHEMA
    )


def _formatted_once(table: pa.Table) -> pa.Table:
    """Return a table as text where its estimators share columns: those are formatted only once.

    Formatting numbers takes most of the time of writing, and estimators share most of them. The
    text must need no quotation marks, since the writer can't tell that it was a number.
    """
    size = _rows_of_first(table["estimator"].combine_chunks())
    columns = [_tiled_text(column.combine_chunks(), size) for column in table.columns]
    return pa.table(columns, names=table.column_names)


def _rows_of_first(estimator: pa.DictionaryArray) -> int:
    """Return how many rows the first estimator has, all where it has others later on."""
    codes = estimator.indices.to_numpy(zero_copy_only=False)
    size = int(np.argmax(codes != codes[0])) if len(codes) else 0
    return size if size and len(codes) % size == 0 else len(codes)


def _tiled_text(column: pa.Array, size: int) -> pa.Array:
    """Return a column as text if its first `size` rows repeat to its end, else as it is."""
    if len(column) == size:
        return column
    first, n = column.slice(0, size), len(column) // size
    if not pa.concat_arrays([first] * n).equals(column):
        return column
    return pa.concat_arrays([pc.cast(first, pa.string())] * n)


def _column(values: pd.Series, kind: pa.DataType) -> pa.Array:
    """Return a column as it is stored; what is undefined becomes null."""
    if kind == _WORD or kind == pa.string():
        words = values if isinstance(values.dtype, pd.CategoricalDtype) else _as_words(values)
        codes = words.cat.codes.to_numpy().astype(np.int32)
        found = pa.DictionaryArray.from_arrays(
            pa.array(codes, mask=codes < 0), pa.array(_categories(words), pa.string())
        )
        return found if kind == _WORD else found.dictionary_decode()
    return pa.array(values, kind, from_pandas=True)


def _as_words(values: pd.Series) -> pd.Series:
    return values.astype("category")


def _categories(values: pd.Series) -> list[str]:
    if not isinstance(values.dtype, pd.CategoricalDtype):
        values = _as_words(values)
    return values.cat.categories.tolist()


def read_ids(
    path: Path, columns: Sequence[str], filters: list[tuple] | None = None
) -> pd.DataFrame:
    """Return some columns of a table, words as categories; `filters` as of `pyarrow.parquet`.

    They may be read-only.

    Raises:
        TerseError: the file has no such column, or is not a table of dimensions.
    """
    with _telling(path):
        table = pq.read_table(path, columns=list(columns), filters=filters)
    return _frame(table)


def parts_of(path: Path, columns: Sequence[str]) -> Iterator[pd.DataFrame]:
    """Yield some columns of a table, about half a million rows at a time, words as categories.

    They may be read-only.

    Raises:
        TerseError: as `read_ids`.
    """
    with _telling(path), pq.ParquetFile(path, read_dictionary=["flags"]) as file:
        for number in range(file.num_row_groups):
            table = file.read_row_group(number, columns=list(columns))
            yield _frame(table)


def _frame(table: pa.Table) -> pd.DataFrame:
    """Return a table of pandas without copies; layers stay whole numbers, some of them missing."""
    frame = table.to_pandas(split_blocks=True)  # blocks of one type would be copies
    if "layer" in frame:
        frame["layer"] = frame["layer"].astype("Int64")
    return frame


@contextmanager
def _telling(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowInvalid, pa.ArrowKeyError, OSError) as error:
        raise TerseError(f"{path} is not a table of dimensions ({error}): make it again") from error
