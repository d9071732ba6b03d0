"""The rows of a Parquet table without the bytes of their audio, some at a time."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hlfeat.audio.table_file import audio_leaves, code_of, reason_of, text_of
from hlfeat.inputs.audio_column import is_text
from hlfeat.inputs.table_values import TooLargeError, has_bytes, json_values, without_large
from hlfeat.inputs.tables import different_names
from hlfeat.inputs.urls import end_run
from hlfeat.remote.errors import RemoteError
from hlfeat.text import count, escape_unprintable

_BATCH_ROWS = 4096  # that are held at once
log = logging.getLogger("hlfeat")


@dataclass(frozen=True)
class RowBatch:
    """Some rows of a table: all that is known of them without reading audio.

    Attributes:
        first, n: number of the first row, and how many there are.
        audio: for each row, its path; None or "" where it has none.
        names, values: of the other columns, each with a value for each row.
        error: why they cannot be read.
    """

    first: int
    n: int
    audio: Sequence[str | None]
    names: tuple[str, ...] = ()
    values: Sequence[Sequence[Any]] = ()
    error: str = ""

    def others(self, i: int) -> tuple[tuple[str, ...], tuple[Any, ...]]:
        """Names and values of the other columns of a row, but values that are too large to be metadata."""
        values = tuple([column[i] for column in self.values])
        large = any(type(value) is TooLargeError for value in values)
        return without_large(self.names, values) if large else (self.names, values)

    def names_of_large(self) -> Iterator[str]:
        """The names of columns, once for each value that is too large."""
        for name, values in zip(self.names, self.values, strict=True):
            yield from (name for value in values if type(value) is TooLargeError)


def read_rows(file: Any, column: str, path: str) -> Iterator[tuple[int, RowBatch]]:
    """All rows of a table, in order, each batch with the number of its row group.

    What cannot be read of a row group is one batch, with the error.

    Args:
        file: that is open (hlfeat/audio/table_file.py).
        column: of audio, or of its paths.
        path: of the table, for messages.

    Raises UnreachableError where the server of a table at a URL does not answer.
    """
    shown = escape_unprintable(path)
    columns = _columns_to_read(file, column, shown)
    first, large = 0, Counter[str]()
    for group in range(file.metadata.num_row_groups):
        n, end = file.metadata.row_group(group).num_rows, first
        try:
            for rows in _batches(file, group, columns, column, first):
                large.update(rows.names_of_large())
                yield group, rows
                end += rows.n
            if end != first + n:
                raise ValueError(f"expected {n} rows, got {end - first}")
        except Exception as e:  # pyarrow raises errors of many types
            if code_of(e) == "unreachable":
                end_run(path, RemoteError("unreachable", reason_of(e)))
            rest = first + n - end
            yield group, RowBatch(end, rest, [""] * rest, error=f"the row group cannot be read: {reason_of(e)}")
        first += n
    for name, times in large.items():
        log.debug("%s: %s of %s too large to be metadata", shown, count(times, "value"), escape_unprintable(name))


def _columns_to_read(file: Any, column: str, shown: str) -> list[str]:
    """The column of paths, if there is one, and all others but those with bytes in them."""
    schema = file.schema_arrow
    paths = [leaf for leaf in audio_leaves(file, column) if leaf != column and leaf.endswith(".path")]
    if is_text(schema.field(column).type):
        paths = [column]
    others = [field for field in schema if field.name != column]
    left_out = [field.name for field in others if has_bytes(field.type)]
    if left_out:
        log.debug("%s: columns with bytes in them are no metadata: %s", shown, escape_unprintable(", ".join(left_out)))
    return paths + [field.name for field in others if field.name not in left_out]


def _batches(file: Any, group: int, columns: list[str], column: str, first: int) -> Iterator[RowBatch]:
    """The rows of a row group, whose first row has the number `first`."""
    if not columns:
        n = file.metadata.row_group(group).num_rows
        yield RowBatch(first, n, [""] * n)
        return
    for batch in file.iter_batches(_BATCH_ROWS, row_groups=[group], columns=columns, use_threads=False):
        yield _rows_of(batch, column, first)
        first += batch.num_rows


def _rows_of(batch: Any, column: str, first: int) -> RowBatch:
    names, values = [], []
    audio: Sequence[str | None] = [""] * batch.num_rows
    for name, array in zip(batch.schema.names, batch.columns, strict=True):
        if name != column:
            names.append(name)
            values.append(json_values(array))
        elif is_text(array.type):
            audio = _texts(array)
        else:
            audio = _texts(array.field("path"))
    return RowBatch(first, batch.num_rows, audio, different_names(names), values)


def _texts(array: Any) -> list[str | None]:
    """The values of a column of texts; bytes of paths may be any."""
    try:
        texts: list[str | None] = array.to_pylist()
    except UnicodeDecodeError:
        return [text_of(scalar) for scalar in array]
    return texts
