"""Hugging Face's audio folders: `metadata.csv` (or `.jsonl`, `.parquet`) with a column `file_name`, beside the files.

The column may also be the only one whose name ends with `_file_name`. A row is a clip, whose id is the name of its
file; all other columns are metadata. As for Hugging Face, files that are in no row are no clips: a warning says how
many there are. So are folders in a folder that have such a file, as splits do, below one with rows of its own too. A
file that is in the rows of both is the clip of the upper ones.
"""

from __future__ import annotations

import json
import logging
import os
import posixpath
from collections.abc import Collection, Container, Iterator
from contextlib import suppress
from itertools import islice

from hlfeat.audio.clip import Clip
from hlfeat.audio.formats import has_audio_name
from hlfeat.errors import UsageError
from hlfeat.inputs.base import Argument, InputKind, Origin
from hlfeat.inputs.columns import Columns
from hlfeat.inputs.manifests import read_json_row
from hlfeat.inputs.parquet import PARQUET
from hlfeat.inputs.root import Root
from hlfeat.inputs.rows import RowClips, clip_of_row
from hlfeat.inputs.tables import add_rows, header_of
from hlfeat.inputs.tables_of_files import add_files, column_names
from hlfeat.inputs.text_files import open_text
from hlfeat.text import count, escape_unprintable

FILE_NAME = "file_name"
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
_MOST_LOOKED_AT = 100  # lines of a file of metadata, which may have no name of a file
log = logging.getLogger("hlfeat")


class AudioFolder(InputKind):
    """A folder with a file of metadata whose rows name files of the folder."""

    def matches(self, argument: Argument) -> bool:
        hidden = argument.origin is Origin.FOLDER and posixpath.basename(argument.path).startswith(".")
        return argument.is_folder and not hidden and _metadata_of(argument.path) is not None

    def clips(self, argument: Argument) -> Iterator[Clip]:
        yield from self._clips(argument, frozenset())

    def _clips(self, argument: Argument, above: frozenset[str]) -> Iterator[Clip]:
        """Those of a folder, but the ones whose files are in rows of folders above it, by their normal paths."""
        metadata = _metadata_of(argument.path)
        assert metadata is not None
        path, column = metadata
        columns = Columns(paths=(column,))
        rows = RowClips(path, Root(argument.path))
        if path.endswith(".csv"):
            with open_text(path, newline="") as file:
                add_rows(rows, file.readlines(), lambda names: columns)
        elif path.endswith(".jsonl"):
            with open_text(path) as file:
                for number, line in enumerate(file, 1):
                    if line.strip():
                        rows.add(number, _json_clip, rows, line, columns)
        else:
            add_files(rows, column, columns)
        clips = list(rows.clips(prefix=argument.prefix))
        listed = above.union(os.path.normpath(clip.path) for clip in clips)
        inner = _warn_of_others(argument.path, path, listed)
        for clip in clips:
            if clip.fault is not None or os.path.normpath(clip.path) not in above:
                yield clip
        for folder in sorted(inner):
            prefix = posixpath.join(argument.prefix, posixpath.relpath(folder, argument.path))
            yield from self._clips(argument.entry(folder, Origin.FOLDER, prefix, prefix), listed)


def _json_clip(rows: RowClips, line: str, columns: Columns) -> Clip:
    row = read_json_row(line)
    return clip_of_row(rows, row, columns, rows.metadata.of({key: row[key] for key in row if key not in columns}))


def _metadata_of(folder: str) -> tuple[str, str] | None:
    """The file of metadata of a folder, and its column of names of files; None if there is none with such a column."""
    for name in METADATA:
        path = posixpath.join(folder, name)
        column = _column_of_files(_names_in(path)) if os.path.isfile(path) else None
        if column is not None:
            return path, column
    return None


def _column_of_files(names: Collection[str]) -> str | None:
    if FILE_NAME in names:
        return FILE_NAME
    others = [name for name in names if name.endswith(f"_{FILE_NAME}")]
    return others[0] if len(others) == 1 else None


def _names_in(path: str) -> Collection[str]:
    """The columns of a file of metadata, as far as they can be read: who lists its rows says why not."""
    names: dict[str, None] = {}
    if path.endswith(".parquet"):
        return column_names(path)
    with suppress(UsageError), open_text(path, newline="") as file:
        lines = (line for line in file if line.strip())
        if path.endswith(".csv"):
            return header_of(next(lines, ""), path)
        for line in islice(lines, _MOST_LOOKED_AT):
            with suppress(ValueError, RecursionError):
                row = json.loads(line)
                names.update(dict.fromkeys(row if isinstance(row, dict) else ()))
    return names


def _warn_of_others(folder: str, metadata: str, listed: Container[str]) -> list[str]:
    """Say how many files that may hold audio are in no row. Returns the folders that have rows of their own.

    Args:
        listed: normal paths of the files that are in rows.
    """
    others, inner = 0, []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        own = {name for name in folders if _has_rows(posixpath.join(place, name))}
        inner += [posixpath.join(place, name) for name in own]
        folders[:] = [name for name in folders if name not in own]
        for name in names:
            holds = has_audio_name(name) or name.lower().endswith((".tar", *PARQUET))
            if holds and name not in METADATA and os.path.normpath(os.path.join(place, name)) not in listed:
                others += 1
    if others:
        log.warning("%s: %s not in it, and left out", escape_unprintable(metadata), count(others, "audio file"))
    return inner


def _has_rows(folder: str) -> bool:
    return not os.path.islink(folder) and _metadata_of(folder) is not None
