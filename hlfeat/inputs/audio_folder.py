"""Hugging Face's audio folders: `metadata.csv` (or `.jsonl`, `.parquet`) with a column `file_name`, beside the files.

A row is a clip, whose id is its `file_name`; all other columns are metadata. As for Hugging Face, files that are in no
row are no clips: a warning says how many there are. So are splits, which are folders with such a file in a folder.
"""

from __future__ import annotations

import json
import logging
import os
import posixpath
from collections.abc import Iterator
from contextlib import suppress

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
_COLUMNS = Columns(paths=(FILE_NAME,))
log = logging.getLogger("hlfeat")


class AudioFolder(InputKind):
    """A folder with a file of metadata whose rows name files of the folder."""

    def matches(self, argument: Argument) -> bool:
        hidden = argument.origin is Origin.FOLDER and posixpath.basename(argument.path).startswith(".")
        return argument.is_folder and not hidden and _metadata_of(argument.path) is not None

    def clips(self, argument: Argument) -> Iterator[Clip]:
        path = _metadata_of(argument.path)
        assert path is not None
        rows = RowClips(path, Root(argument.path))
        if path.endswith(".csv"):
            with open_text(path, newline="") as file:
                add_rows(rows, file.readlines(), lambda names: _COLUMNS)
        elif path.endswith(".jsonl"):
            with open_text(path) as file:
                for number, line in enumerate(file, 1):
                    if line.strip():
                        rows.add(number, _json_clip, rows, line)
        else:
            add_files(rows, FILE_NAME, _COLUMNS)
        clips = list(rows.clips(prefix=argument.prefix))
        _warn_of_others(argument.path, path, clips)
        yield from clips


def _json_clip(rows: RowClips, line: str) -> Clip:
    row = read_json_row(line)
    return clip_of_row(rows, row, _COLUMNS, rows.metadata.of({key: row[key] for key in row if key != FILE_NAME}))


def _metadata_of(folder: str) -> str | None:
    """The file of metadata of a folder; None if there is none with a column of names of files."""
    for name in METADATA:
        path = posixpath.join(folder, name)
        if os.path.isfile(path) and FILE_NAME in _names_in(path):
            return path
    return None


def _names_in(path: str) -> tuple[str, ...]:
    """The columns of a file of metadata, as far as they can be read: who lists its rows says why not."""
    if path.endswith(".parquet"):
        return column_names(path)
    with suppress(UsageError), open_text(path, newline="") as file:
        first = next((line for line in file if line.strip()), "")
        if path.endswith(".csv"):
            return header_of(first, path)
        with suppress(ValueError, RecursionError):
            row = json.loads(first)
            return tuple(row) if isinstance(row, dict) else ()
    return ()


def _warn_of_others(folder: str, metadata: str, clips: list[Clip]) -> None:
    """Say how many files that may hold audio are in no row."""
    listed = {os.path.normpath(clip.path) for clip in clips}
    others = 0
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            holds = has_audio_name(name) or name.lower().endswith((".tar", *PARQUET))
            if holds and name not in METADATA and os.path.normpath(os.path.join(place, name)) not in listed:
                others += 1
    if others:
        log.warning("%s: %s not in it, and left out", escape_unprintable(metadata), count(others, "audio file"))
