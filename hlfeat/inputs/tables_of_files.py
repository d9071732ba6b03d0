"""Parquet tables whose rows name audio files, or segments of them, as those of other manifests do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from hlfeat.audio.clip import Clip
from hlfeat.audio.table_file import open_table, reason_of
from hlfeat.errors import UsageError
from hlfeat.inputs.audio_column import is_text
from hlfeat.inputs.base import Argument
from hlfeat.inputs.columns import ColumnError, Columns, understand_columns
from hlfeat.inputs.row_batches import RowBatch, read_rows
from hlfeat.inputs.rows import RowClips, clip_of_row
from hlfeat.text import escape_unprintable


def clips_of_files(file: Any, column: str, argument: Argument) -> Iterator[Clip]:
    """A clip for each row, which names a file, or a segment of one.

    Raises UsageError where the table has columns that are not understood.
    """
    is_struct = not is_text(file.schema_arrow.field(column).type)
    columns = Columns(paths=(column,)) if is_struct else _columns_of_files(file, column, argument)
    clips = RowClips(argument.path, argument.root, argument.url)
    _add_files(clips, file, column, columns)
    yield from clips.clips(prefix=argument.prefix)


def add_files(clips: RowClips, column: str, columns: Columns) -> None:
    """Add the rows of a table of paths. Raises UsageError where it cannot be read.

    Args:
        clips: where they go, with the path of the table.
        column: of paths.
        columns: what its columns mean.
    """
    try:
        file = open_table(clips.path)
    except Exception as e:  # pyarrow raises errors of many types
        raise UsageError(f"{escape_unprintable(clips.path)}: the table cannot be read: {reason_of(e)}") from e
    with file:
        _add_files(clips, file, column, columns)


def column_names(path: str) -> tuple[str, ...]:
    """The columns of text of a table; nothing where it cannot be read, or pyarrow is not installed."""
    try:
        with open_table(path) as file:
            return tuple(field.name for field in file.schema_arrow if is_text(field.type))
    except Exception:
        return ()


def _columns_of_files(file: Any, column: str, argument: Argument) -> Columns:
    """What the columns beside one of paths mean. Raises UsageError for those that are not understood."""
    names = tuple(name for name in file.schema_arrow.names if name != column)
    try:
        return replace(understand_columns(names), paths=(column,))
    except ColumnError as e:
        raise UsageError(f"{escape_unprintable(argument.path)}: {escape_unprintable(str(e))}") from e


def _add_files(clips: RowClips, file: Any, column: str, columns: Columns) -> None:
    def clip_at(rows: RowBatch, i: int) -> Clip:
        names, values = rows.others(i)
        row = {name: value for name, value in zip(names, values, strict=True) if value is not None}
        others = {name: value for name, value in zip(names, values, strict=True) if name not in columns}
        if rows.audio[i]:
            row[column] = rows.audio[i]
        return clip_of_row(clips, row, columns, clips.metadata.of(others))

    for _, rows in read_rows(file, column, clips.path):
        for i in range(rows.n):
            if rows.error:
                raise UsageError(f"{escape_unprintable(clips.path)}: {rows.error}")
            clips.add(rows.first + i, clip_at, rows, i)
