"""Parquet tables with audio in them, as Hugging Face's data sets are; or with paths of audio files.

| column of audio | what a row is |
|---|---|
| struct of `bytes` and `path` (Hugging Face), or bytes | a clip |
| a struct, with no bytes in the whole table | a file |
| text | a file, or a segment of one, as in other manifests (hlfeat/inputs/columns.py) |

Times beside bytes are metadata: data sets have cut their recordings into rows, and say where in the recordings the rows
were (`begin_time` of GigaSpeech and AMI). To cut the rows at these times again would be wrong.

Here only the other columns are read, and `path`: a data set of 100 GB is listed within seconds. The audio is read when
it is needed (hlfeat/audio/table_rows.py).

The id of a row is its path, if no other row of the run has it, else `table#number`. All other columns but those with
bytes are metadata.

A table whose schema cannot be read ends the run, or is a clip that fails if it was found in a folder. Where a row group
cannot be read, its rows are clips that fail.
"""

from __future__ import annotations

import logging
import os
import posixpath
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

from hlfeat.audio.clip import Clip, TableRow, relative_id
from hlfeat.audio.copies import Stamp
from hlfeat.audio.formats import is_apple_double
from hlfeat.audio.table_rows import (
    NEEDS_PYARROW,
    audio_leaves,
    code_of,
    leaf_of,
    open_table,
    reason_of,
    text_of,
)
from hlfeat.errors import UsageError
from hlfeat.inputs.audio_column import audio_column_of, is_text
from hlfeat.inputs.base import GIVEN, Argument, InputKind, Origin, Skipped
from hlfeat.inputs.columns import ColumnError, Columns, understand_columns
from hlfeat.inputs.metadata import MetadataPool
from hlfeat.inputs.rows import RowClips, clip_of_row
from hlfeat.inputs.table_values import TooLargeError, has_bytes, json_values, without_large
from hlfeat.inputs.tables import different_names
from hlfeat.inputs.urls import end_run
from hlfeat.remote.errors import RemoteError
from hlfeat.remote.tables import open_ranged
from hlfeat.remote.urls import is_url, other_scheme, shown_url
from hlfeat.text import count, escape_unprintable

PARQUET = (".parquet", ".pq")
_BATCH_ROWS = 4096  # of the other columns, which are held at once
log = logging.getLogger("hlfeat")


class Parquet(InputKind):
    """A Parquet table, by name."""

    def matches(self, argument: Argument) -> bool:
        if argument.origin is Origin.FOLDER and is_apple_double(argument.path):
            return False
        return argument.name.lower().endswith(PARQUET)

    def clips(self, argument: Argument) -> Iterator[Clip | Skipped]:
        path, given = escape_unprintable(argument.path), argument.origin in GIVEN
        if argument.status is None and argument.url is None and not given:
            yield Clip(argument.id, argument.path)  # decoding it will say why it cannot be read
            return
        if find_spec("pyarrow") is None:
            if argument.origin is not Origin.FOLDER or argument.audio_column is not None:
                raise UsageError(f"{path}: {NEEDS_PYARROW}")
            yield Skipped(argument.path)  # may be labels of the clips beside it
            return
        try:
            source, stamp = _source(argument)
            file = open_table(source)
        except Exception as e:  # pyarrow raises errors of many types
            code, message = code_of(e), f"the table cannot be read: {reason_of(e)}"
            if code == "unreachable":
                end_run(argument.path, RemoteError(code, reason_of(e)))
            if given:
                raise UsageError(f"{path}: {message}") from e
            yield Clip(argument.id, argument.path, fault=(code, message), url=argument.secret_url)
            return
        with file:
            column = audio_column_of(file.schema_arrow, argument)
            if column is None:
                log.debug("%s: no column of audio", path)
                yield Skipped(argument.path)
                return
            yield from _clips(file, column, argument, stamp)


def _source(argument: Argument) -> tuple[Any, Stamp]:
    """What pyarrow is to open, and the table's size and modification time."""
    if argument.url is not None:
        return open_ranged(argument.url, argument.retries, argument.listed)
    info = os.stat(argument.path) if argument.status is None else argument.status
    return argument.path, (info.st_size, info.st_mtime_ns)


@dataclass(frozen=True)
class _Rows:
    """Some rows of a table: all that is known of them without reading audio.

    Attributes:
        first: number of the first row; n: how many there are.
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

    def row(self, i: int) -> tuple[Any, ...]:
        return tuple([column[i] for column in self.values])


def _clips(file: Any, column: str, argument: Argument, stamp: Stamp) -> Iterator[Clip]:
    kind = file.schema_arrow.field(column).type
    if is_text(kind):
        yield from _of_files(file, column, argument, _columns_of_files(file, column, argument))
    elif not _has_audio(file, column):
        yield from _of_files(file, column, argument, Columns(paths=(column,)))
    else:
        yield from _of_rows(file, column, argument, stamp)


def _has_audio(file: Any, column: str) -> bool:
    """Whether a row may have bytes, and not a path alone. That there are none, a file's statistics say."""
    leaves = audio_leaves(file, column)
    if leaves[0] == f"{column}.path":
        return False
    if len(leaves) < 2:
        return True
    for group in range(file.metadata.num_row_groups):
        leaf = leaf_of(file, group, leaves[0])
        known = leaf.statistics is not None and leaf.statistics.has_null_count
        if not known or leaf.statistics.null_count < file.metadata.row_group(group).num_rows:
            return True
    return not file.metadata.num_row_groups


def _of_rows(file: Any, column: str, argument: Argument, stamp: Stamp) -> Iterator[Clip]:
    """A clip for each row, whose audio is in the table."""
    metadata, table, path = MetadataPool(), argument.id, argument.path
    at_url: dict[str, Any] = {} if argument.url is None else {"url": argument.secret_url, "listed": stamp}
    leaf, mean_sizes = audio_leaves(file, column)[0], list[int]()
    for group in range(file.metadata.num_row_groups):
        chunk = leaf_of(file, group, leaf)
        mean_sizes.append(chunk.total_uncompressed_size // max(1, chunk.num_values))
    for group, rows in _read(file, column, argument.path):
        for i in range(rows.n):
            number, name = rows.first + i, _shown_name(rows.audio[i])
            id_ = relative_id(name) if name else ""
            id_ = posixpath.join(argument.prefix, name if id_ == name else id_) if id_ else f"{table}#{number}"
            fault = ("corrupt", rows.error) if rows.error else None
            row = TableRow(table, number, column, stamp, name, mean_sizes[group])
            yield Clip(id_, path, fault=fault, meta=metadata.row(*_kept(rows, i)), row=row, **at_url)


def _shown_name(path: str | None) -> str:
    """What a row calls its file, which becomes the clip's id. Of a URL, as in ids, without the scheme and secrets."""
    if path and (is_url(path) or other_scheme(path)):
        return shown_url(path).partition("://")[2]
    return path or ""


def _kept(rows: _Rows, i: int) -> tuple[tuple[str, ...], tuple[Any, ...]]:
    values = rows.row(i)
    large = any(type(value) is TooLargeError for value in values)
    return without_large(rows.names, values) if large else (rows.names, values)


def _columns_of_files(file: Any, column: str, argument: Argument) -> Columns:
    """What the columns beside one of paths mean. Raises UsageError for those that are not understood."""
    names = tuple(name for name in file.schema_arrow.names if name != column)
    try:
        return replace(understand_columns(names), paths=(column,))
    except ColumnError as e:
        raise UsageError(f"{escape_unprintable(argument.path)}: {escape_unprintable(str(e))}") from e


def _of_files(file: Any, column: str, argument: Argument, columns: Columns) -> Iterator[Clip]:
    """A clip for each row, which names a file, or a segment of one."""
    clips = RowClips(argument.path, argument.root, argument.url)
    _add_files(clips, file, column, columns)
    for clip in clips.clips():
        inside = argument.prefix and clip.fault is None
        yield replace(clip, id=posixpath.join(argument.prefix, clip.id)) if inside else clip


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


def _add_files(clips: RowClips, file: Any, column: str, columns: Columns) -> None:
    def clip_at(rows: _Rows, i: int) -> Clip:
        names, values = _kept(rows, i)
        row = {name: value for name, value in zip(names, values, strict=True) if value is not None}
        others = {name: value for name, value in zip(names, values, strict=True) if name not in columns}
        if rows.audio[i]:
            row[column] = rows.audio[i]
        return clip_of_row(clips, row, columns, clips.metadata.of(others))

    for _, rows in _read(file, column, clips.path):
        for i in range(rows.n):
            if rows.error:
                raise UsageError(f"{escape_unprintable(clips.path)}: {rows.error}")
            clips.add(rows.first + i, clip_at, rows, i)


def _read(file: Any, column: str, path: str) -> Iterator[tuple[int, _Rows]]:
    """The row groups of a table without the bytes of the audio, some rows at a time."""
    schema, source, path = file.schema_arrow, path, escape_unprintable(path)
    paths = [leaf for leaf in audio_leaves(file, column) if leaf != column and leaf.endswith(".path")]
    if is_text(schema.field(column).type):
        paths = [column]
    others = [field.name for field in schema if field.name != column and not has_bytes(field.type)]
    left_out = [field.name for field in schema if field.name != column and has_bytes(field.type)]
    if left_out:
        log.debug("%s: columns with bytes in them are no metadata: %s", path, escape_unprintable(", ".join(left_out)))
    first, large = 0, Counter[str]()
    for group in range(file.metadata.num_row_groups):
        n = file.metadata.row_group(group).num_rows
        if not paths and not others:
            yield group, _Rows(first, n, [""] * n)
        else:
            end = first
            try:
                batches = file.iter_batches(
                    _BATCH_ROWS, row_groups=[group], columns=[*paths, *others], use_threads=False
                )
                for batch in batches:
                    rows = _rows_of(batch, column, end)
                    large.update(
                        name
                        for name, values in zip(rows.names, rows.values, strict=True)
                        for value in values
                        if type(value) is TooLargeError
                    )
                    yield group, rows
                    end += rows.n
                if end != first + n:
                    raise ValueError(f"expected {n} rows, got {end - first}")
            except Exception as e:
                if code_of(e) == "unreachable":
                    end_run(source, RemoteError("unreachable", reason_of(e)))
                rest = first + n - end
                yield group, _Rows(end, rest, [""] * rest, error=f"the row group cannot be read: {reason_of(e)}")
        first += n
    for name, times in large.items():
        log.debug("%s: %s of %s too large to be metadata", path, count(times, "value"), escape_unprintable(name))


def _rows_of(batch: Any, column: str, first: int) -> _Rows:
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
    return _Rows(first, batch.num_rows, audio, different_names(names), values)


def _texts(array: Any) -> list[str | None]:
    """The values of a column of texts; bytes of paths may be any."""
    try:
        texts: list[str | None] = array.to_pylist()
    except UnicodeDecodeError:
        return [text_of(scalar) for scalar in array]
    return texts


def with_distinct_ids(clips: list[Clip]) -> list[Clip]:
    """The clips of a run. Of rows that have the same path, also in several tables, none has it for its id."""
    times = Counter(clip.id for clip in clips if clip.row is not None)
    return [
        replace(clip, id=f"{clip.row.table}#{clip.row.number}") if clip.row is not None and times[clip.id] > 1 else clip
        for clip in clips
    ]


def skipped_without_pyarrow(skipped: Mapping[str, int]) -> None:
    """Say which tables of folders were skipped because pyarrow is not installed: they may hold audio."""
    tables = sum(skipped.get(kind, 0) for kind in PARQUET)
    if tables and find_spec("pyarrow") is None:
        log.warning("skipped %s that may hold audio: %s", count(tables, "table"), NEEDS_PYARROW)
