"""Parquet tables with audio in them, as Hugging Face's data sets are; or with paths of audio files.

| column of audio | what a row is |
|---|---|
| struct of `bytes` and `path` (Hugging Face), or bytes | a clip |
| a struct, with no bytes in the whole table | a file |
| text | a file, or a segment of one, as in other manifests (hlfeat/inputs/columns.py) |

Times beside bytes are metadata: data sets have cut their recordings into rows, and say where in the recordings the rows
were (`begin_time` of GigaSpeech and AMI). To cut the rows at these times again would be wrong.

Here only the other columns are read, and `path`: a data set of 100 GB is listed within seconds. The audio is read when
it is needed (hlfeat/audio/table_fetcher.py).

The id of a row is its path, if no other row of the run has it, else `table#number`. All other columns but those with
bytes are metadata.

A table whose schema cannot be read ends the run, or is a clip that fails if it was found in a folder. Where a row group
cannot be read, its rows are clips that fail.
"""

from __future__ import annotations

import logging
import os
import posixpath
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Any

from hlfeat.audio.clip import Clip, TableRow, relative_id
from hlfeat.audio.copies import Stamp
from hlfeat.audio.formats import is_apple_double
from hlfeat.audio.table_file import NEEDS_PYARROW, audio_leaves, code_of, leaf_of, open_table, reason_of
from hlfeat.errors import UsageError
from hlfeat.inputs.audio_column import audio_column_of, is_text
from hlfeat.inputs.base import GIVEN, Argument, InputKind, Origin, Skipped
from hlfeat.inputs.metadata import MetadataPool
from hlfeat.inputs.row_batches import read_rows
from hlfeat.inputs.tables_of_files import clips_of_files
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
            if argument.origin is not Origin.FOLDER or argument.reading.audio_column is not None:
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
        return open_ranged(argument.url, argument.reading.retries, argument.listed)
    info = os.stat(argument.path) if argument.status is None else argument.status
    return argument.path, (info.st_size, info.st_mtime_ns)


def _clips(file: Any, column: str, argument: Argument, stamp: Stamp) -> Iterator[Clip]:
    if is_text(file.schema_arrow.field(column).type) or not _has_audio(file, column):
        yield from clips_of_files(file, column, argument)
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
    for group, rows in read_rows(file, column, argument.path):
        for i in range(rows.n):
            number, name = rows.first + i, _shown_name(rows.audio[i])
            below = relative_id(name) if name else ""
            below = name if below == name else below  # one text in memory where both are the same
            id_ = posixpath.join(argument.prefix, below) if below else f"{table}#{number}"
            fault = ("corrupt", rows.error) if rows.error else None
            row = TableRow(table, number, column, stamp, name, mean_sizes[group])
            yield Clip(id_, path, fault=fault, meta=metadata.row(*rows.others(i)), row=row, **at_url)


def _shown_name(path: str | None) -> str:
    """What a row calls its file, which becomes the clip's id. Of a URL, as in ids, without the scheme and secrets."""
    if path and (is_url(path) or other_scheme(path)):
        return shown_url(path).partition("://")[2]
    return path or ""


def skipped_without_pyarrow(skipped: Mapping[str, int]) -> None:
    """Say which tables of folders were skipped because pyarrow is not installed: they may hold audio."""
    tables = sum(skipped.get(kind, 0) for kind in PARQUET)
    if tables and find_spec("pyarrow") is None:
        log.warning("skipped %s that may hold audio: %s", count(tables, "table"), NEEDS_PYARROW)
